"""Answers to the exercises of lesson 11."""

from __future__ import annotations

import copy
import re

import torch
from torch import nn

from tests.mutants import right, right_value, wrong, wrong_value

# --- moved ---------------------------------------------------------------------------------------------------------


@right("moved")
def by_copies(model, step):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step()
    return [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]


@right("moved")
def by_a_deep_copy(model, step):
    old = copy.deepcopy(model)
    step()
    pairs = zip(model.named_parameters(), old.parameters(), strict=True)
    return [name for (name, p), q in pairs if (p != q).any()]


@right("moved")
def by_lists(model, step):
    before = [p.tolist() for p in model.parameters()]
    step()
    return [name for (name, p), was in zip(model.named_parameters(), before, strict=True) if p.tolist() != was]


@wrong("moved", says="the live tensors")
def no_copies(model, step):
    before = dict(model.named_parameters())
    step()
    return [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]


@wrong("moved", says="the live tensors")
def detached_only(model, step):
    before = {n: p.detach() for n, p in model.named_parameters()}
    step()
    return [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]


@wrong("moved", says="What may train has not moved yet")
def what_may_train(model, step):
    step()
    return [n for n, p in model.named_parameters() if p.requires_grad]


@wrong("moved", says="A gradient is no step")
def what_has_a_gradient(model, step):
    step()
    return [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]


@wrong("moved", says="a frozen weight moved")
def trainable_only(model, step):
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    step()
    return [n for n, p in model.named_parameters() if p.requires_grad and not torch.equal(p, before[n])]


@wrong("moved", says="not allclose")
def nearly_equal(model, step):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step()
    return [n for n, p in model.named_parameters() if not torch.allclose(p, before[n])]


@wrong("moved", says="not their sum")
def by_norms(model, step):
    before = {n: p.detach().double().sum().item() for n, p in model.named_parameters()}
    step()
    now = {n: p.detach().double().sum().item() for n, p in model.named_parameters()}
    return [n for n in now if abs(now[n] - before[n]) > 1e-9]


@wrong("moved", says="asked are the others")
def what_stayed(model, step):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step()
    return [n for n, p in model.named_parameters() if torch.equal(p, before[n])]


@wrong("moved", says="the return inside of the loop")
def returns_the_first(model, step):
    before, found = {n: p.detach().clone() for n, p in model.named_parameters()}, []
    step()
    for n, p in model.named_parameters():
        if not torch.equal(p, before[n]):
            found.append(n)
            return found
    return found


@wrong("moved", says="made before the step")
def copies_too_late(model, step):
    step()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    return [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]


@wrong("moved", says="compare the numbers")
def by_identity(model, step):
    before = copy.deepcopy(model)
    step()
    return [n for (n, p), old in zip(model.named_parameters(), before.parameters(), strict=True) if p is not old]


@wrong("moved", says="or the first")
def first_entries(model, step):
    before = {n: p.flatten()[0].item() for n, p in model.named_parameters()}
    step()
    return [n for n, p in model.named_parameters() if p.flatten()[0].item() != before[n]]


@wrong("moved", says="let one that differs be enough")
def all_entries_differ(model, step):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step()
    return [n for n, p in model.named_parameters() if (p != before[n]).all()]


@wrong("moved", says="is there a return?")
def prints_them(model, step):
    by_copies(model, step)


@wrong("moved", says="called 2 times")
def two_steps(model, step):
    step()
    return by_copies(model, step)


@wrong("moved", says="the step was never made")
def no_step(model, step):
    return []


@wrong("moved", says="the model's order")
def backwards(model, step):
    return by_copies(model, step)[::-1]


@wrong("moved", says="a list of names", plain=True)
def whether(model, step):
    return bool(by_copies(model, step))


# --- measured_scaling ----------------------------------------------------------------------------------------------


@right("measured_scaling")
def least_squares(layer, x):
    added, plain = layer(x) - layer.base(x), (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / plain.square().sum()).item()


@right("measured_scaling")
def by_the_largest_entry(layer, x):
    with torch.no_grad():
        added, plain = layer(x) - layer.base(x), nn.functional.linear(nn.functional.linear(x, layer.A), layer.B)
        at = plain.abs().argmax()
        return float(added.flatten()[at] / plain.flatten()[at])


@right("measured_scaling")
def by_lstsq(layer, x):
    added, plain = layer(x) - layer.base(x), x @ (layer.B @ layer.A).T
    return torch.linalg.lstsq(plain.reshape(-1, 1), added.reshape(-1, 1)).solution.item()


@wrong("measured_scaling", says="attribute `scaling`")
def the_attribute(layer, x):
    return layer.scaling


@wrong("measured_scaling", says="attribute `scaling`")
def alpha_over_rank(layer, x):
    return layer.alpha / layer.rank


@wrong("measured_scaling", says="attribute `alpha`")
def alpha(layer, x):
    return layer.alpha


@wrong("measured_scaling", says="the sign is lost")
def by_norms_of_both(layer, x):
    return ((layer(x) - layer.base(x)).norm() / ((x @ layer.A.T) @ layer.B.T).norm()).item()


@wrong("measured_scaling", says="norms hide the sign")
def base_left_in(layer, x):
    return (layer(x).norm() / ((x @ layer.A.T) @ layer.B.T).norm()).item()


@wrong("measured_scaling", says="take layer.base(x) away first")
def base_left_in_the_fit(layer, x):
    plain = (x @ layer.A.T) @ layer.B.T
    return (layer(x) * plain).sum() / plain.square().sum()


@wrong("measured_scaling", says="bias is still in it")
def bias_left_in(layer, x):
    added, plain = layer(x) - x @ layer.base.weight.T, (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / plain.square().sum()).item()


@wrong("measured_scaling", says="upside down")
def upside_down(layer, x):
    added, plain = layer(x) - layer.base(x), (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / added.square().sum()).item()


@wrong("measured_scaling", says="the attribute, which may lie")
def against_the_scaled(layer, x):
    added, plain = layer(x) - layer.base(x), layer.scaling * (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / plain.square().sum()).item()


@wrong("measured_scaling", says="not yet a factor")
def inner_product(layer, x):
    return (((layer(x) - layer.base(x)) * ((x @ layer.A.T) @ layer.B.T)).sum()).item()


@wrong("measured_scaling", says="changes its input")
def switches_the_adapter_off(layer, x):
    out, plain = layer(x), (x @ layer.A.T) @ layer.B.T
    layer.B.data.zero_()
    return (((out - layer(x)) * plain).sum() / plain.square().sum()).item()


@wrong("measured_scaling", says="the other way round")
def base_less_output(layer, x):
    added, plain = layer.base(x) - layer(x), (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / plain.square().sum()).item()


@wrong("measured_scaling", says="1 for any factor")
def cosine(layer, x):
    added, plain = layer(x) - layer.base(x), (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / plain.norm() / added.norm()).item()


@wrong("measured_scaling", says="takes its square")
def divided_by_the_length(layer, x):
    added, plain = layer(x) - layer.base(x), (x @ layer.A.T) @ layer.B.T
    return ((added * plain).sum() / plain.norm()).item()


@wrong("measured_scaling", says="norms cannot be subtracted")
def norms_subtracted(layer, x):
    return ((layer(x).norm() - layer.base(x).norm()) / ((x @ layer.A.T) @ layer.B.T).norm()).item()


# --- merge_error ---------------------------------------------------------------------------------------------------


def as_if_trained(model):
    for name, p in model.named_parameters():
        if "B" in name:
            nn.init.normal_(p, std=0.1)
    return model


@right("merge_error")
def on_a_trained_copy(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).abs().max().item()


@right("merge_error")
def on_two_copies(layer, x):
    one = copy.deepcopy(layer)
    with torch.no_grad():
        one.B.fill_(0.3)
        other = copy.deepcopy(one)
        other.merge()
        return torch.dist(one(x), other(x), p=float("inf"))


@right("merge_error")
def with_a_new_b(layer, x):
    probe = copy.deepcopy(layer)
    probe.B = nn.Parameter(torch.randn_like(probe.B))
    apart = probe(x).detach().numpy().copy()
    probe.merge()
    return abs(probe(x).detach().numpy() - apart).max()


@wrong("merge_error", says="B is zero in a fresh layer")
def on_a_fresh_copy(layer, x):
    probe = copy.deepcopy(layer)
    probe.merge()
    return (probe(x) - layer(x)).abs().max().item()


@wrong("merge_error", says="work on a copy")
def on_the_layer_itself(layer, x):
    before = as_if_trained(layer)(x)
    layer.merge()
    return (layer(x) - before).abs().max().item()


@wrong("merge_error", says="belong to one B")
def against_the_fresh_layer(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    probe.merge()
    return (probe(x) - layer(x)).abs().max().item()


@wrong("merge_error", says="belong to one B")
def merged_twice(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    probe.merge()
    return (probe(x) - apart).abs().max().item()


@wrong("merge_error", says="take abs() before max()")
def without_abs(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).max().item()


@wrong("merge_error", says="that is the mean difference")
def mean(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).abs().mean().item()


@wrong("merge_error", says="the norm of all differences")
def norm(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).norm().item()


@wrong("merge_error", says="compare the outputs")
def both_after_the_merge(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    probe.merge()
    apart = probe(x)
    return (probe(x) - apart).abs().max().item()


@wrong("merge_error", says="compare the outputs")
def weights(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    wanted = probe.base.weight + probe.delta()
    probe.merge()
    return (probe.base.weight - wanted).abs().max().item()


@wrong("merge_error", says="it should be one number", plain=True)
def whether_it_is_small(layer, x):
    return on_a_trained_copy(layer, x) < 1e-4


@wrong("merge_error", says="take abs() before max()")
def abs_after_max(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).max().abs().item()


@wrong("merge_error", says="the smallest difference")
def smallest(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).abs().min().item()


@wrong("merge_error", says="a minus takes from a plus")
def plain_mean(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    apart = probe(x)
    probe.merge()
    return (probe(x) - apart).mean().item()


@wrong("merge_error", says="the layer's own merge()")
def merges_by_hand(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    by_hand = nn.functional.linear(x, probe.base.weight + probe.delta(), probe.base.bias)
    return (by_hand - probe(x)).abs().max().item()


# --- unmerge_to_the_bit --------------------------------------------------------------------------------------------


def keeps_the_weight(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept + layer.delta()


def gives_it_back(layer):
    layer.base.weight.data, layer.kept = layer.kept, None


def keeps_a_copy(layer):
    if not layer.merged:
        layer.plain = layer.base.weight.detach().clone()
        layer.base.weight.data.add_(layer.delta())
        layer.merged = True


def copies_it_back(layer):
    layer.base.weight.data.copy_(layer.plain)
    layer.merged = False


def merges_by_method(layer):
    if not hasattr(layer, "before"):
        layer.before = layer.base.weight
        layer.base.weight = nn.Parameter(layer.before.detach().clone())
        layer.merge()


def puts_the_parameter_back(layer):
    layer.base.weight = layer.before
    del layer.before


right_value("unmerge_to_the_bit", (keeps_the_weight, gives_it_back), "keeps the weight")
right_value("unmerge_to_the_bit", (keeps_a_copy, copies_it_back), "keeps a copy")


def keeps_the_base(layer):
    if getattr(layer, "plain", None) is None:
        layer.plain = copy.deepcopy(layer.base)
        layer.base.weight.data += layer.delta()


def puts_the_base_back(layer):
    layer.base, layer.plain = layer.plain, None


right_value("unmerge_to_the_bit", (keeps_the_base, puts_the_base_back), "keeps the base")
right_value("unmerge_to_the_bit", (merges_by_method, puts_the_parameter_back), "keeps the parameter")


def by_its_own_method(layer):
    if not layer.merged:
        layer.merge()


def by_its_own_unmerge(layer):
    layer.unmerge()


def keeps_the_same_tensor(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data += layer.delta()


def merges_every_time(layer):
    layer.kept = layer.base.weight.data.clone()
    layer.base.weight.data += layer.delta()


def keeps_for_ever(layer):
    if not hasattr(layer, "kept"):
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept + layer.delta()


def forgets_nothing(layer):
    layer.base.weight.data = layer.kept


def keeps_the_update(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.delta().clone()
        layer.base.weight.data += layer.kept


def subtracts_the_update(layer):
    layer.base.weight.data -= layer.kept
    layer.kept = None


def scales_again(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept + layer.scaling * layer.delta()


def subtracts_first(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept - layer.delta()


def replaces(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.delta()


def toggles(layer):
    if getattr(layer, "kept", None) is None:
        keeps_the_weight(layer)
    else:
        gives_it_back(layer)


def first_update_for_ever(layer):
    layer.first = getattr(layer, "first", layer.delta().clone())
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept + layer.first


def only_keeps(layer):
    layer.kept = layer.base.weight.data


def asks_hasattr(layer):
    if not hasattr(layer, "kept"):
        layer.kept = layer.base.weight.data.clone()
        layer.base.weight.data += layer.delta()


def without_s(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept + layer.B.data @ layer.A.data


def keeps_the_parameter(layer):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.base.weight
        layer.base.weight.data = layer.kept.data + layer.delta()


def puts_the_same_parameter_back(layer):
    layer.base.weight, layer.kept = layer.kept, None


def clears_the_adapter(layer):
    gives_it_back(layer)
    layer.A.data.zero_()


for functions, says in {
    (asks_hasattr, gives_it_back): "true for None as well",
    (without_s, gives_it_back): "s is left out",
    (keeps_the_parameter, puts_the_same_parameter_back): "If you kept the Parameter",
    (keeps_the_weight, clears_the_adapter): "changes A or B",
    (by_its_own_method, by_its_own_unmerge): "make *now*",
    (keeps_the_same_tensor, gives_it_back): "still the merged one",
    (merges_every_time, forgets_nothing): "in the weight twice",
    (keeps_for_ever, forgets_nothing): "Unmerge must forget",
    (keeps_the_update, subtracts_the_update): "to add and subtract rounds",
    (scales_again, gives_it_back): "s is counted twice",
    (subtracts_first, gives_it_back): "taken away instead of added",
    (replaces, gives_it_back): "only the update is in the weight",
    (toggles, gives_it_back): "took the update out again",
    (first_update_for_ever, gives_it_back): "the *first* update",
    (only_keeps, forgets_nothing): "layer.delta() is to be added",
}.items():
    wrong_value("unmerge_to_the_bit", functions, says, " ".join(f.__name__ for f in functions))
wrong_value("unmerge_to_the_bit", keeps_the_weight, "should be 2 things", "one function", plain=True)


# --- tied_to -------------------------------------------------------------------------------------------------------


@right("tied_to")
def by_place(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    place = every[name].data_ptr()
    return [other for other, p in every.items() if p.data_ptr() == place and other != name]


@right("tied_to")
def by_storage(model, name):
    def place(tensor):
        return tensor.untyped_storage().data_ptr(), tensor.storage_offset()

    wanted, found = place(model.get_parameter(name)), []
    for path, module in model.named_modules():
        for own, p in module.named_parameters(recurse=False):
            other = f"{path}.{own}" if path else own
            if other != name and place(p) == wanted:
                found.append(other)
    return found


@right("tied_to")
def by_state_dict(model, name):
    every = model.state_dict()
    return [n for n in every if n != name and every[n].data_ptr() == every[name].data_ptr()]


@wrong("tied_to", says="hides the second")
def doubles_hidden(model, name):
    every = dict(model.named_parameters())
    place = model.get_parameter(name).data_ptr()
    return [n for n, p in every.items() if p.data_ptr() == place and n != name]


@wrong("tied_to", says="mind the brackets")
def the_same_object(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p is every[name] and n != name]


@wrong("tied_to", says="equal numbers in two places")
def equal_numbers(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if torch.equal(p, every[name]) and n != name]


@wrong("tied_to", says="a new object each time")
def the_same_data(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p.data is every[name].data and n != name]


@wrong("tied_to", says="return []")
def none_for_nobody(model, name):
    return by_place(model, name) or None


@wrong("tied_to", says="mind the brackets")
def not_called(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p.data_ptr == every[name].data_ptr and n != name]


@wrong("tied_to", says="itself is in the list")
def itself_too(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p.data_ptr() == every[name].data_ptr()]


@wrong("tied_to", says="the same shape")
def by_shape(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p.shape == every[name].shape and n != name]


@wrong("tied_to", says="a list of names")
def the_parameters(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [p for n, p in every.items() if p.data_ptr() == every[name].data_ptr() and n != name]


@wrong("tied_to", says="changes the model")
def by_trying(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    before = {n: p.detach().clone() for n, p in every.items()}
    every[name].data += 1
    return [n for n, p in every.items() if not torch.equal(p, before[n]) and n != name]


@wrong("tied_to", says="a list of names", plain=True)
def whether_tied(model, name):
    return bool(by_place(model, name))


# --- file_key ------------------------------------------------------------------------------------------------------


@right("file_key")
def by_parts(key):
    parts = ("base_model." + key.split("base_model.", 1)[-1]).split(".")
    if parts[-2] not in ("lora_A", "lora_B"):
        del parts[-2]
    return ".".join(parts)


@right("file_key")
def by_pattern(key):
    key = re.sub(r"^((_orig_mod|module)\.)+", "", key)
    return re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", key)


@right("file_key")
def by_removing_prefixes(key):
    while not key.startswith("base_model."):
        key = key.partition(".")[2]
    path, _, end = key.rpartition(".lora_")
    return f"{path}.lora_{end[0]}.weight"


@wrong("file_key", says="takes letters")
def strips_letters(key):
    wrapper = "_orig_mod."
    return by_pattern_end(key.lstrip(wrapper))


@wrong("file_key", says="called module")
def every_module_removed(key):
    key = re.sub(r"_orig_mod\.|module\.", "", key)
    return by_parts(key)


@wrong("file_key", says="A wrapper's prefix is still there")
def prefixes_in_one_order(key):
    return by_pattern_end(key.removeprefix("module.").removeprefix("_orig_mod."))


def by_pattern_end(key):
    return re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", key)


@wrong("file_key", says="cut before the *first* one")
def the_last_base_model(key):
    return by_pattern_end("base_model." + key.rpartition("base_model.")[2])


@wrong("file_key", says="any name")
def only_default(key):
    return ("base_model." + key.split("base_model.", 1)[-1]).replace(".default.", ".")


@wrong("file_key", says="a layer that is called default")
def every_default(key):
    return by_parts(key.replace(".default", ""))


@wrong("file_key", says="stays in the file")
def without_peft(key):
    return by_parts(key).removeprefix("base_model.model.")


@wrong("file_key", says="right already stays")
def always_drops_a_part(key):
    parts = ("base_model." + key.split("base_model.", 1)[-1]).split(".")
    return ".".join(parts[:-2] + parts[-1:])


@wrong("file_key", says=".weight belongs in the file")
def without_weight(key):
    return by_parts(key).removesuffix(".weight")


@wrong("file_key", says="'old-pirate', is still in it")
def names_of_letters(key):
    return re.sub(r"\.(lora_[AB])\.\w+\.weight$", r".\1.weight", "base_model." + key.split("base_model.", 1)[-1])


@wrong("file_key", says="any number of parts")
def five_parts(key):
    parts = ("base_model." + key.split("base_model.", 1)[-1]).split(".")
    if len(parts) > 5:
        del parts[-2]
    return ".".join(parts)


@wrong("file_key", says="joined without dots")
def without_dots(key):
    return by_parts(key).replace(".", "")


@wrong("file_key", says="is still in it")
def only_the_prefix(key):
    return "base_model." + key.split("base_model.", 1)[-1]


@wrong("file_key", says="a key is a string", plain=True)
def parts(key):
    return by_parts(key).split(".")
