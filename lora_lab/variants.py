r"""Adapters that are not plain LoRA: what each adds to a layer's output, and how it changes the weight.

One object per adapter and layer, kept in `LoraLayer.variants`. `update` gives what is added to the base's output y,
`delta` the same as a change of the weight; A, B and the scaling stay the layer's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_lab.layers import LoraLayer


class Dora(nn.Module):
    r"""DoRA: a trained length for each output row, apart from the row's direction.

    .. math:: W' = m \odot \frac{W + sBA}{\lVert W + sBA \rVert_{row}}

    magnitude: m [out], at first the lengths of W's rows, so that an untrained adapter changes nothing. The lengths in
    the denominator get no gradient. Source: Liu et al. 2024 (DoRA), equation 5 and section 4.3.
    """

    def __init__(self, layer: LoraLayer, name: str) -> None:
        super().__init__()
        with torch.no_grad():
            self.magnitude = nn.Parameter(self._lengths(layer, name))

    @staticmethod
    def _lengths(layer: LoraLayer, name: str) -> Tensor:
        r"""Lengths of the rows of W + sBA [out], never 0.

        :math:`\lVert w + sbA \rVert^2 = \lVert w \rVert^2 + 2s\,b(Aw) + s^2\,b(AA^T)b^T` needs no [out, in] product.
        Rows of zeros (Llama-3.1 has some) get the smallest length there is instead of a division by zero.
        """
        (a, b), s = layer.matrices(name), layer.scaling[name]
        a, b, w = a.detach().flatten(1), b.detach().flatten(1), layer.rows_of_weight().to(a.dtype)
        crossed, own = ((b * other).sum(1) for other in (w @ a.T, b @ (a @ a.T)))
        squares = torch.linalg.vector_norm(w, dim=1).square() + 2 * s * crossed + s * s * own
        return squares.clamp_min(torch.finfo(a.dtype).tiny).sqrt()

    def factor(self, layer: LoraLayer, name: str) -> Tensor:
        """What each output row is multiplied by [out]: its magnitude over its length."""
        return self.magnitude / self._lengths(layer, name)

    def update(self, layer: LoraLayer, name: str, x: Tensor, y: Tensor) -> Tensor:
        """(f - 1) W x + f s B A x. As in peft, dropout then applies to both x."""
        factor = layer.along_output(self.factor(layer, name))
        h = layer.dropped(name, x)
        if layer.training and name in layer.dropout:
            y = layer.base(h.to(x.dtype))
        bias = getattr(layer.base, "bias", None)
        plain = y if bias is None else y - layer.along_output(bias)
        return (factor - 1) * plain + factor * layer.product(name, h)

    def delta(self, layer: LoraLayer, name: str) -> Tensor:
        """The change of the weight, in its shape."""
        rows = layer.rows_of_weight().to(self.magnitude.dtype)
        factor = self.factor(layer, name)[:, None]
        return layer.as_weight((factor - 1) * rows + factor * layer.rows_of_product(name))


class Pissa(nn.Module):
    r"""PiSSA: A and B start as the largest part of W, and only what they move away from it counts.

    .. math:: W' = W + s\,(BA - B_0A_0), \qquad s\,B_0A_0 = U_r \Sigma_r V_r^T

    The paper (and peft) puts the rest, W - s B0 A0, in W's place. Here W stays, and B0 A0 is subtracted: the same
    function and gradients, a base that is exact when the adapter is off, and a product of rank 2r.
    Source: Meng et al. 2024 (PiSSA), equations 2 to 5.
    """

    def __init__(self, layer: LoraLayer, name: str) -> None:
        super().__init__()
        (a, b), s = layer.matrices(name), layer.scaling[name]
        rank = a.shape[0]
        with torch.no_grad():
            u, values, v = torch.linalg.svd(layer.rows_of_weight().float(), full_matrices=False)
            root = (values[:rank] / s).sqrt()
            a.copy_(root[:, None] * v[:rank])
            b.copy_(u[:, :rank] * root)
        self.register_buffer("a0", a.detach().clone())
        self.register_buffer("b0", b.detach().clone())

    def update(self, layer: LoraLayer, name: str, x: Tensor, y: Tensor) -> Tensor:
        """s B A x - s B0 A0 x; dropout applies to the first alone."""
        start = F.linear(F.linear(x.to(self.a0.dtype), self.a0), self.b0) * layer.scaling[name]
        return layer.product(name, layer.dropped(name, x)) - start

    def delta(self, layer: LoraLayer, name: str) -> Tensor:
        """The change of the weight, in its shape."""
        start = self.b0 @ self.a0 * layer.scaling[name]
        return layer.as_weight(layer.rows_of_product(name) - start)

    def folded(self, layer: LoraLayer, name: str) -> tuple[Tensor, Tensor]:
        """The A [2 rank, in] and B [out, 2 rank] of the plain LoRA that this is."""
        a, b = layer.matrices(name)
        return torch.cat([a, self.a0]), torch.cat([b, -self.b0], dim=1)


class Vera(nn.Module):
    r"""VeRA: one random A and B, frozen and shared by all layers; a layer trains a vector beside each.

    .. math:: W' = W + s\,\mathrm{diag}(b)\,B\,\mathrm{diag}(d)\,A

    d [rank] starts at a constant and b [out] at 0, so that an untrained adapter changes nothing. The layer's A and B
    are views into the shared ones (`training_variants.add_vera`). Source: Kopiczko et al. 2024 (VeRA), equation 2.
    """

    def __init__(self, layer: LoraLayer, name: str, d_initial: float = 0.1) -> None:
        super().__init__()
        a, b = layer.matrices(name)
        self.d = nn.Parameter(torch.full_like(a[:, 0], d_initial))
        self.b = nn.Parameter(torch.zeros_like(b[:, 0]))

    def update(self, layer: LoraLayer, name: str, x: Tensor, y: Tensor) -> Tensor:
        """s diag(b) B diag(d) A x."""
        a, b = layer.matrices(name)
        h = self.d * F.linear(layer.dropped(name, x), a)
        return self.b * F.linear(h, b) * layer.scaling[name]

    def delta(self, layer: LoraLayer, name: str) -> Tensor:
        """The change of the weight, in its shape."""
        a, b = self.folded(layer, name)
        return layer.as_weight(b @ a * layer.scaling[name])

    def folded(self, layer: LoraLayer, name: str) -> tuple[Tensor, Tensor]:
        """The A [rank, in] and B [out, rank] of the plain LoRA that this is."""
        a, b = layer.matrices(name)
        return self.d[:, None] * a, self.b[:, None] * b
