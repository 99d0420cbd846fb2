r"""The LoRA layers: a frozen module and the low-rank updates learned beside it.

Equal to peft to the bit. Floating-point sums depend on their order, so the forward does what peft's `Linear.forward`
does, in the same order and with the same dtypes: run the base, cast x to A's dtype, dropout, A, B, times the scaling,
add to the base's output, adapter after adapter, and cast back once at the end. Folding the scaling into B, or adding
in place of the last product (`addmm`), is the same mathematics and other bits: `fused` does so where it is asked to.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_lab import fused


def is_conv1d(module: nn.Module) -> bool:
    """Whether `module` is GPT-2's Conv1D: a linear layer that stores its weight as [in, out].

    Read off the class's name, so that models from elsewhere can be adapted without importing transformers.
    """
    return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)


def is_linear(module: nn.Module) -> bool:
    """Whether `module` computes W x + b. transformers has routers and layers by groups that are only stored as one."""
    kind = type(module)
    own = kind.forward is not nn.Linear.forward and kind.__module__.startswith("transformers.models.")
    return isinstance(module, nn.Linear) and (not own or kind.__name__ == "FalconLinear")  # Falcon's only adds b later


class LoraLayer(nn.Module):
    """What the LoRA layers share: several adapters by name beside one frozen `base`. Each gives `product(name, x)`.

    base: the frozen module. A, B, dropout: per adapter. scaling: {name: alpha / rank}. variants: what is not plain
    LoRA, by adapter. active: names used in the forward, in order; empty while merged. merged: names whose update is
    inside the base's weight right now.
    """

    in_features: int
    out_features: int
    stored_as_out_in = True  # False where the base's weight is [in, out]

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.A: nn.ModuleDict | nn.ParameterDict
        self.B: nn.ModuleDict | nn.ParameterDict
        self.dropout = nn.ModuleDict()
        self.variants = nn.ModuleDict()
        self.scaling: dict[str, float | Tensor] = {}
        self.used_rank: dict[str, int] = {}  # where A and B are filled up with zeros (`hot_swap`), by adapter
        self.active: list[str] = []
        self.merged: list[str] = []
        self.pristine: Tensor | None = None  # the weight as it was before the merge, if it was kept

    def __getattr__(self, name: str):
        """`weight`, `bias`, `in_features`, `padding_idx`, ... : what the wrapper lacks is the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or name.startswith("__"):  # not there yet, or asked of this object itself
                raise
            return getattr(super().__getattr__("base"), name)

    @property
    def adapter_dtype(self) -> torch.dtype:
        """float32 over a half-precision base, else the base's own dtype."""
        dtype = self.base.weight.dtype
        return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    @property
    def rank(self) -> dict[str, int]:
        """{adapter: rank}, read off A [rank, in]; without the zeros that A may be filled up with."""
        return {name: self.used_rank.get(name, len(self.matrices(name)[0])) for name in self.scaling}

    def has(self, name: str) -> bool:
        """Whether adapter `name` is on this layer: one swapped in may leave a layer out, which is then all zeros."""
        return name in self.scaling and self.used_rank.get(name) != 0

    def add(self, name: str, rank: int, scaling: float, dropout: float = 0.0, zero_init: bool = True) -> None:
        """Make A [rank, in] and B [out, rank] for adapter `name`; not active yet, and plain LoRA."""
        a, b = self._new_matrices(rank, zero_init)
        place = {"device": self.base.weight.device, "dtype": self.adapter_dtype}
        if isinstance(self.A, nn.ModuleDict):
            self.A[name], self.B[name] = a.to(**place), b.to(**place)
        else:
            self.A[name], self.B[name] = nn.Parameter(a.to(**place)), nn.Parameter(b.to(**place))
        if dropout > 0:
            self.dropout[name] = nn.Dropout(dropout).train(self.training)
        self.scaling[name] = scaling

    def remove(self, name: str) -> None:
        """Forget adapter `name`."""
        for container in (self.A, self.B, self.dropout, self.variants, self.scaling, self.used_rank):
            if name in container:
                del container[name]
        if name in self.active:
            self.active.remove(name)

    def set_scaling(self, name: str, value: float) -> None:
        """Change alpha / rank of adapter `name`; in place where it is a tensor, which compiled code reads anew."""
        scaling = self.scaling[name]
        self.scaling[name] = scaling.fill_(value) if isinstance(scaling, Tensor) else value

    def matrices(self, name: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of adapter `name`, as parameters; a convolution's with the kernel's sizes."""
        a, b = self.A[name], self.B[name]
        return (a.weight, b.weight) if isinstance(a, nn.Module) else (a, b)

    def folded(self, name: str) -> tuple[Tensor, Tensor] | None:
        """A and B whose product, times the scaling, is the whole update; None where no such pair is (DoRA)."""
        variant = self.variants[name] if name in self.variants else None
        if variant is None:
            (a, b), rank = self.matrices(name), self.used_rank.get(name)
            return (a, b) if rank is None else (a[:rank], b[:, :rank])
        return variant.folded(self, name) if hasattr(variant, "folded") else None

    def update(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """What adapter `name` adds to the base's output y for the input x."""
        if name in self.variants:
            return self.variants[name].update(self, name, x, y)
        return self.product(name, self.dropped(name, x))

    def dropped(self, name: str, x: Tensor) -> Tensor:
        """x in the adapter's dtype after its dropout; x itself where neither changes it."""
        x = x.to(self.matrices(name)[0].dtype)
        return self.dropout[name](x) if name in self.dropout and self.training else x

    def delta(self, name: str) -> Tensor:
        """The change of the base's weight by adapter `name` (plain: s B A), in its shape, in the adapter's dtype."""
        if name in self.variants:
            return self.variants[name].delta(self, name)
        return self.as_weight(self.rows_of_product(name))

    def add_delta(self, weight: Tensor, name: str, out: Tensor) -> Tensor:
        """Write `weight` + `delta(name)` into `out`, which may be `weight`; both in one dtype, that of the sum."""
        if name in self.variants:
            return torch.add(weight, self.delta(name), out=out)
        a, b = (matrix.flatten(1).to(weight.dtype) for matrix in self.matrices(name))
        left, right = (b, a) if self.stored_as_out_in else (a.T, b.T)
        torch.addmm(weight.flatten(1), left, right, alpha=self.scaling[name], out=out.view(out.shape[0], -1))
        return out

    def rows_of_weight(self) -> Tensor:
        """The base's weight as it is without any adapter, one row for each output: [out, in]."""
        weight = (self.base.weight if self.pristine is None else self.pristine).detach().flatten(1)
        return weight if self.stored_as_out_in else weight.T

    def rows_of_product(self, name: str) -> Tensor:
        """s B A as [out, in]."""
        a, b = self.matrices(name)
        return b.flatten(1) @ a.flatten(1) * self.scaling[name]

    def as_weight(self, rows: Tensor) -> Tensor:
        """A matrix [out, in] in the shape of the base's weight."""
        return (rows if self.stored_as_out_in else rows.T).reshape(self.base.weight.shape)

    def along_output(self, values: Tensor) -> Tensor:
        """Values [out], shaped to meet the layer's output."""
        return values

    def _new_matrices(self, rank: int, zero_init: bool):
        a = nn.Linear(self.in_features, rank, bias=False, device=_build_device(self.base))
        b = nn.Linear(rank, self.out_features, bias=False, device=_build_device(self.base))
        nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
        if zero_init:
            nn.init.zeros_(b.weight)
        return a, b

    def train(self, mode: bool = True) -> LoraLayer:
        """As nn.Module's. Raises RuntimeError for train() while an adapter is merged."""
        if mode and self.merged:
            raise RuntimeError(
                f"adapter {', '.join(map(repr, self.merged))} is merged: its A and B take no part in the forward and "
                "would get no gradient. Call unmerge(model) before train()."
            )
        return super().train(mode)


def _build_device(base: nn.Module) -> str:
    """Where A and B are drawn: on the CPU, so that a seed gives the same adapter on every machine."""
    return "meta" if base.weight.device.type == "meta" else "cpu"


class LoraLinear(LoraLayer):
    r"""A frozen linear layer and the low-rank updates learned beside it.

    .. math:: y = Wx + b + \sum_{a \in \text{active}} s_a\, B_a (A_a x), \qquad s_a = \alpha_a / r_a

    Shapes: x [..., in], A [r, in], B [out, r], y [..., out].
    A starts Kaiming uniform (a = sqrt 5) and B zero: an untrained adapter changes nothing, yet B's gradient is not
    zero. Source: Hu et al. 2021, section 4.1; peft 0.21, `tuners/lora/layer.py`.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.out_features, self.in_features = self._sizes(base)
        self.A = nn.ModuleDict()
        self.B = nn.ModuleDict()
        self.fused = False  # see `fused.fuse`

    @staticmethod
    def _sizes(base: nn.Module) -> tuple[int, int]:
        return base.weight.shape[0], base.weight.shape[1]

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """y [..., out] for x [..., in]; the base's dtype."""
        if self.fused and self._one_operation():
            (name,) = self.active
            return fused.linear(self.base, x, *self.matrices(name), self.scaling[name])
        y = self.base(x, *args, **kwargs)
        if not self.active:  # none chosen, disabled, or merged into the base
            return y
        # Straight to the dicts behind the containers: a container look-up costs as much as a small product.
        modules = self._modules
        all_a, all_b, dropouts = modules["A"]._modules, modules["B"]._modules, modules["dropout"]._modules
        variants, plain = modules["variants"]._modules, y
        for name in self.active:
            if name in variants:
                y = y + variants[name].update(self, name, x, plain)
                continue
            a = all_a[name]
            h = x.to(a.weight.dtype)
            if name in dropouts:
                h = dropouts[name](h)
            y = y + all_b[name](a(h)) * self.scaling[name]  # fp32 adapters promote a bf16 y; rounded once, below
        return y.to(plain.dtype)

    def _one_operation(self) -> bool:
        """Whether base and adapter can be computed as one: a single plain adapter beside a frozen linear layer."""
        if len(self.active) != 1 or not torch.is_grad_enabled() or not fused.usable(self.base):
            return False
        name = self.active[0]
        return name not in self.variants and not (self.training and name in self.dropout)

    def product(self, name: str, x: Tensor) -> Tensor:
        """s B A x [..., out] in the adapter's dtype, without dropout."""
        a = self.A[name]
        return self.B[name](a(x.to(a.weight.dtype))) * self.scaling[name]


class LoraConv1D(LoraLinear):
    """GPT-2's Conv1D: the same layer with the weight stored as [in, out], so the update is (s B A).T."""

    stored_as_out_in = False

    @staticmethod
    def _sizes(base: nn.Module) -> tuple[int, int]:
        return base.weight.shape[1], base.weight.shape[0]


class LoraConv2d(LoraLinear):
    r"""A frozen convolution and its low-rank updates: A a convolution to r channels, B a 1 x 1 one back.

    Shapes: W [out, in, height, width], A [r, in, height, width], B [out, r, 1, 1]. A takes the base's stride, padding,
    padding mode and dilation, so that B A, read as a kernel, does what the two convolutions do one after the other.
    """

    @staticmethod
    def _sizes(base: nn.Conv2d) -> tuple[int, int]:
        return base.out_channels, base.in_channels

    def _new_matrices(self, rank: int, zero_init: bool):
        base, device = self.base, _build_device(self.base)
        shape = {k: getattr(base, k) for k in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        a = nn.Conv2d(self.in_features, rank, **shape, bias=False, device=device)
        b = nn.Conv2d(rank, self.out_features, 1, bias=False, device=device)
        nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
        if zero_init:
            nn.init.zeros_(b.weight)
        return a, b

    def along_output(self, values: Tensor) -> Tensor:
        """Values [out] as [out, 1, 1]."""
        return values[:, None, None]


class LoraEmbedding(LoraLayer):
    r"""A frozen embedding and the low-rank updates of its rows.

    .. math:: y_t = W_t + s\, B A_{:, t}

    Shapes: token ids [...], W [vocabulary, dim], A [r, vocabulary], B [dim, r], y [..., dim].
    A starts zero and B normal, as in peft.
    """

    stored_as_out_in = False

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__(base)
        self.in_features, self.out_features = base.weight.shape
        self.A = nn.ParameterDict()
        self.B = nn.ParameterDict()

    def _new_matrices(self, rank: int, zero_init: bool):
        device = _build_device(self.base)
        a, b = torch.randn(rank, self.in_features, device=device), torch.randn(self.out_features, rank, device=device)
        return (torch.zeros_like(a) if zero_init else a), b

    def forward(self, ids: Tensor, *args, **kwargs) -> Tensor:
        """y [..., dim] for token ids [...]; the base's dtype. Dropout plays no part, as in peft."""
        y = self.base(ids, *args, **kwargs)
        if not self.active:  # none chosen, disabled, or merged into the base
            return y
        plain = y
        for name in self.active:
            y = y + self.update(name, ids, plain)
        return y.to(plain.dtype)

    def product(self, name: str, ids: Tensor) -> Tensor:
        """s B A[:, t] [..., dim] in the adapter's dtype."""
        base = self.base
        rows = (base.padding_idx, base.max_norm, base.norm_type, base.scale_grad_by_freq, base.sparse)
        update = (F.embedding(ids, self.A[name].T, *rows) @ self.B[name].T) * self.scaling[name]
        if hasattr(base, "embed_scale"):  # Gemma multiplies its embedding's output, so the update as well
            scale = torch.as_tensor(base.embed_scale, dtype=base.weight.dtype, device=base.weight.device)
            update = update * scale.to(update.dtype)
        return update

    def dropped(self, name: str, ids: Tensor) -> Tensor:
        """The ids: dropout plays no part."""
        return ids


class SavedModule(nn.Module):
    """A module trained whole beside the adapters (`modules_to_save`): the original, frozen, and a copy per adapter."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.copies = nn.ModuleDict()
        self.active: list[str] = []  # none, or one name

    def add(self, name: str) -> None:
        self.copies[name] = copy.deepcopy(self.original)

    @property
    def current(self) -> nn.Module:
        """The module in use: the active adapter's copy, or the original."""
        return self.copies[self.active[0]] if self.active else self.original

    def forward(self, *args, **kwargs):
        return self.current(*args, **kwargs)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("original", "copies", "active") or name.startswith("__"):
                raise
            return getattr(self.current, name)


def layer_class(module: nn.Module) -> type[LoraLayer] | None:
    """The LoRA layer for a module, or None where there is none."""
    if isinstance(module, nn.Linear):
        return LoraLinear if is_linear(module) else None
    if isinstance(module, nn.Embedding):
        return LoraEmbedding
    if isinstance(module, nn.Conv2d):
        return LoraConv2d
    return LoraConv1D if is_conv1d(module) else None
