from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

import ics.landscape.hybrids.replay.prefix_reuse as fast
from ics.landscape import Objective, RandomState, make_transition
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.call_recording import Recording
from ics.landscape.hybrids.replay.calls import Interception
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.probes import find_layers
from tests.landscape.hybrids.replay.comparison import assert_equal_to_the_reference, cross_entropy, moved, vectors
from tests.landscape.hybrids.replay.tricky import TRICKY
from tests.landscape.nets import NETS, OPTIMIZERS, copies, take_step


@pytest.fixture(autouse=True)
def _always_worthwhile(monkeypatch):
    monkeypatch.setattr(fast, "_WORTHWHILE", 1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("name", NETS)
def test_nets_equal_the_reference_bit_for_bit(name, size, optimizer):
    taken = take_step(name, size=size, optimizer=optimizer)
    assert_equal_to_the_reference(taken.transition(), taken.layers, {"loss_fn": taken.loss_fn, **taken.circumstances})


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("name", TRICKY)
def test_tricky_nets_equal_the_reference_bit_for_bit(name, chunk):
    torch.manual_seed(3)
    assert_equal_to_the_reference(*moved(TRICKY[name](), cross_entropy, vectors()), chunk=chunk)


@pytest.mark.parametrize("name", ["residual", "normalised_mlp"])
def test_layers_in_chunks_equal_the_reference_bit_for_bit(name):
    taken = take_step(name)
    circumstances = {"loss_fn": taken.loss_fn, **taken.circumstances}
    assert_equal_to_the_reference(taken.transition(), taken.layers, circumstances, chunk=2)


@pytest.mark.parametrize("name", ["attention", "norms", "draws", "views"])
def test_in_evaluation_mode_too(name):
    torch.manual_seed(3)
    assert_equal_to_the_reference(*moved(TRICKY[name]().eval(), cross_entropy, vectors()))


class Counting(nn.Linear):
    """Counts how often its multiplication really runs."""

    runs = 0

    def forward(self, x):
        Counting.runs += 1
        return super().forward(x)


def test_what_comes_before_a_layer_is_computed_once():
    torch.manual_seed(0)
    inner = nn.Sequential(*(nn.Sequential(Counting(6, 6), nn.ReLU(inplace=True)) for _ in range(8)))
    model = nn.Sequential(Counting(6, 6), nn.BatchNorm1d(6), inner, Counting(6, 3))
    transition, layers, _ = moved(model, cross_entropy, vectors())
    names = [layer.name for layer in layers]
    replays = 9 + sum(range(1, 10))  # for layer i those from i on; batch norm starts where the second linear layer does
    Counting.runs = 0
    assert len(list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=names)))) == 11
    # to keep, to see that all can be replayed, the replays, and two full passes to compare with
    assert Counting.runs == 10 + replays + 1 + replays + 2 * 10
    Counting.runs = 0
    list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=names)))
    assert Counting.runs == 10 + 5 + 1 + replays  # seen once, checked in the middle and at the end only
    Counting.runs = 0
    list(full_passes(plan_hybrids(transition, layers=layers, selected=names)))
    assert Counting.runs == 10 * 10


def test_chunks_keep_the_outputs_of_as_many_layers_and_run_the_updated_net_once_each(monkeypatch):
    torch.manual_seed(0)
    stem = nn.Sequential(*(nn.Sequential(Counting(6, 6), nn.ReLU(inplace=True)) for _ in range(8)))
    model = nn.Sequential(stem, Counting(6, 3))
    transition, layers, _ = moved(model, cross_entropy, vectors(5))
    names = [layer.name for layer in layers]
    list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=names)))  # the first time more is checked
    kept = []
    recorded = fast.record_again

    def record_again(*arguments):
        recordings, there = recorded(*arguments)
        tensors = {each.memory: each.tensor for call in recordings[0].calls for each in call.kept()}
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()) / (4 * 5 * 6))
        return recordings, there

    monkeypatch.setattr(fast, "record_again", record_again)
    for chunk, passes in ((2, 4), (3, 3), (8, 1)):
        kept.clear()
        Counting.runs = 0
        list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=names), chunk=chunk))
        assert Counting.runs == 9 * (1 + passes) + sum(range(1, 9)) + 4 + 1  # replays, middle and end checked
        assert len(kept) == passes
        # Of each layer of the chunk before and after its activation, and what each whole block before them returned.
        assert all(each <= 2 * chunk + number * chunk for number, each in enumerate(kept)), kept


class Adding(nn.Module):
    """Writes into its argument and returns it."""

    def __init__(self):
        super().__init__()
        self.linear = Counting(6, 6)

    def forward(self, x):
        x += self.linear(x.clone())
        return x


def test_a_call_that_returns_its_own_argument_is_handed_back_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Adding(), Adding(), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    transition, layers, circumstances = moved(model, cross_entropy, vectors())
    list(
        prefix_reuse(plan_hybrids(transition, layers=layers, selected=["3", "4", "5"]))
    )  # the first time more is checked
    Counting.runs = 0
    assert_equal_to_the_reference(transition, layers, circumstances, selected=["3", "4", "5"])
    assert Counting.runs == 2 + 3 * 2  # once to keep, and in the reference's three passes


def test_batch_norm_alone_does_not_keep_the_second_micro_batch_from_being_replayed():
    torch.manual_seed(0)
    model = nn.Sequential(Counting(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    batches = [vectors(4), vectors(4)]
    objective = Objective(model, cross_entropy, batches, accumulate=True)
    before = copies(model.named_parameters())
    transition = make_transition(objective, before=before, after={name: 1.1 * value for name, value in before.items()})
    layers = find_layers(model, lambda: objective(before), grouping="leaf")
    list(
        prefix_reuse(plan_hybrids(transition, layers=layers, selected=["2", "3", "4"]))
    )  # the first time more is checked
    Counting.runs = 0
    list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=["2", "3", "4"])))
    assert Counting.runs == 2  # once for each micro-batch


def test_a_batch_that_the_model_writes_into_stays_the_user_s_own():
    torch.manual_seed(0)
    batch = vectors()
    place, wanted = batch[0].data_ptr(), batch[0].clone()
    transition, layers, _ = moved(TRICKY["overwriting"](), cross_entropy, batch)
    dict(prefix_reuse(plan_hybrids(transition, layers=layers, selected=[layer.name for layer in layers])))
    assert batch[0].data_ptr() == place
    assert torch.equal(batch[0], wanted)


def test_selected_layers_alone():
    torch.manual_seed(3)
    transition, layers, circumstances = moved(TRICKY["attributes"](), cross_entropy, vectors())
    assert_equal_to_the_reference(transition, layers, circumstances, selected=[layers[1].name, layers[3].name])


@pytest.mark.parametrize("frozen", [["0"], ["2"], ["0", "2"], ["6"]])
def test_frozen_layers(frozen):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) if i % 2 == 0 else nn.Tanh() for i in range(7)), nn.Linear(6, 3))
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    transition, layers, _ = moved(model, cross_entropy, vectors())
    found = dict(prefix_reuse(plan_hybrids(transition, layers=layers, selected=[layer.name for layer in layers])))
    full = dict(full_passes(plan_hybrids(transition, layers=layers, selected=[layer.name for layer in layers])))
    for layer in layers:
        assert found[layer].keys() == full[layer].keys()
        assert all(torch.equal(found[layer][name], full[layer][name]) for name in full[layer])
    assert [name for name in frozen if found[layers[int(name) // 2]]] == []


def penalised_first(model, batch):
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    return 1e-2 * penalty + cross_entropy(model, batch)


def penalised_last(model, batch):
    return cross_entropy(model, batch) + 1e-2 * sum(parameter.square().sum() for parameter in model.parameters())


def siamese(model, batch):
    return cross_entropy(model, batch) + (model(batch[0]) - model(batch[0].flip(0))).square().mean()


def in_parts(model, batch):
    return cross_entropy(lambda x: model.head(model.blocks(model.stem(x))), batch)


TEMPERATURE = nn.Parameter(torch.ones(()))


def tempered(model, batch):
    return F.cross_entropy(model(batch[0]) * TEMPERATURE, batch[1])  # a leaf that is no parameter of the model


@pytest.mark.parametrize("loss_fn", [tempered, penalised_first, penalised_last, siamese, in_parts])
def test_losses_that_use_the_model_in_their_own_way(loss_fn):
    torch.manual_seed(3)
    assert_equal_to_the_reference(*moved(TRICKY["preactivation"](), loss_fn, vectors()))


@pytest.mark.parametrize("name", ["preactivation", "attention", "buffers", "statistics", "draws"])
def test_micro_batches(name):
    torch.manual_seed(3)
    model = TRICKY[name]()
    x, y = vectors(6)
    objective = Objective(model, cross_entropy, [(x[:3], y[:3]), (x[3:], y[3:])], accumulate=True)
    before = copies(model.named_parameters())
    after = {name: before[name] - 0.1 * g for name, g in objective(before).gradients.items() if g is not None}
    layers = find_layers(model, lambda: objective(before), grouping="leaf")
    transition = make_transition(objective, before=before, after=after)
    names = [layer.name for layer in layers]
    found = dict(prefix_reuse(plan_hybrids(transition, layers=layers, selected=names)))
    for layer, gradients in full_passes(plan_hybrids(transition, layers=layers, selected=names)):
        for parameter, gradient in gradients.items():
            same = found[layer][parameter]
            assert (same is None) if gradient is None else torch.equal(same, gradient), (layer.name, parameter)


def test_hooks_of_the_user_fire_and_may_change_what_a_module_returns():
    torch.manual_seed(3)
    model = TRICKY["preactivation"]()
    model.stem.register_forward_hook(lambda module, args, output: output * 2)
    model.blocks[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert_equal_to_the_reference(*moved(model, cross_entropy, vectors()))


def test_nothing_is_left_behind():
    torch.manual_seed(3)
    model = TRICKY["attributes"]()
    model.head.forward = model.head.forward  # an instance's own, as some libraries set it
    transition, layers, _ = moved(model, cross_entropy, vectors())
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    state = torch.get_rng_state()
    list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=[layer.name for layer in layers])))
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert all(vars(module)[key] is value for key, value in before[name].items()), name
    assert torch.equal(state, torch.get_rng_state())


BIG = {
    "vgg11": lambda: models.vgg11(num_classes=3),
    "vgg11_bn": lambda: models.vgg11_bn(num_classes=3),
    "resnet18": lambda: models.resnet18(num_classes=3),
    "densenet121": lambda: models.densenet121(num_classes=3, drop_rate=0.1),
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=3),
    "googlenet": lambda: models.googlenet(num_classes=3, aux_logits=True, init_weights=False),
    "efficientnet_b0": lambda: models.efficientnet_b0(num_classes=3),
    "convnext_tiny": lambda: models.convnext_tiny(num_classes=3),
    "vit": lambda: models.VisionTransformer(32, 8, 3, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=3),
    "swin": lambda: models.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.2, num_classes=3),
}
LIGHT = ("vit", "swin", "resnet18")


def with_auxiliary_heads(model, batch):
    out = model(batch[0])
    logits = out if isinstance(out, torch.Tensor) else [each for each in out if each is not None]
    return sum(F.cross_entropy(each, batch[1]) for each in (logits if isinstance(logits, list) else [logits]))


@pytest.mark.filterwarnings("ignore:the forward pass used no parameter")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in LIGHT else [pytest.mark.slow]) for n in BIG])
def test_published_models_equal_the_reference_bit_for_bit(name):
    torch.manual_seed(3)
    model = BIG[name]()
    if name == "vit":
        nn.init.normal_(model.heads.head.weight)  # made as zero, it lets no gradient through
    batch = (torch.randn(3, 3, *((64, 64) if name == "googlenet" else (32, 32))), torch.tensor([0, 1, 2]))
    transition, layers, circumstances = moved(model, with_auxiliary_heads, batch)
    names = [layer.name for layer in layers]
    selected = names if name in ("vit", "swin") else [*names[: -1 : max(1, len(names) // 12)], names[-1]]
    assert_equal_to_the_reference(transition, layers, circumstances, selected=selected)


def test_what_is_kept_of_a_part_is_freed_once_the_part_is_handed_back_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
    recording = Recording(model, RandomState.capture(model))
    interception = Interception(model)
    with interception.installed(), recording.watching(), interception.handled_by(recording):
        model(torch.ones(2, 6))
    root, first, linear, tanh, second, other, _ = recording.calls
    in_second = recording.frontier(["1.0.weight"])
    recording.settle(last_frontier=in_second)
    assert (root.result, second.result, other.result) == (None, None, None)
    assert None not in (first.result, linear.result, tanh.result)
    recording.release(recording.frontier(["0.0.weight"]))
    assert None not in (linear.result, tanh.result)
    recording.release(in_second)
    assert first.result is not None
    assert (linear.result, tanh.result) == (None, None)


def test_a_recording_is_freed_with_its_last_user():
    """Without waiting for Python to collect cycles: until then all that it kept would fill the memory."""
    torch.manual_seed(3)
    model = TRICKY["attributes"]()
    interception, recording = Interception(model), Recording(model, RandomState.capture(model))
    with interception.installed(), recording.watching(), interception.handled_by(recording):
        model(vectors()[0])
    recording.settle(last_frontier=fast.EVERYTHING)
    gone = weakref.ref(recording)
    gc.disable()
    try:
        del recording
        assert gone() is None
    finally:
        gc.enable()
