"""What Mini GPT claims, checked. Run `pytest` beside mini_gpt.py; the order is that of the file."""

import io
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn as nn

import mini_gpt
from mini_gpt import (DELIMITER, SENTENCES, MaskedSelfAttention, MiniGPT, Vocab, causal_mask,
                      collate, count_predictions, entropy_floor, evaluate, generate, main,
                      make_sequences, next_token_loss, plot_attention, prepare, read_options,
                      sampling_probabilities, train)

plt.switch_backend("Agg")  # no windows, also where there is a screen
SCRIPT = Path(mini_gpt.__file__).resolve()
VOCAB = Vocab(SENTENCES)
SEQUENCES = make_sequences([VOCAB.encode(line) for line in SENTENCES], context_length=6)
PAST = torch.ones(24, 24).tril().bool()  # in row t, the columns up to t
FOUR = 0.15, 0.5, 0.05, 0.3  # the odds of four tokens


@pytest.fixture(autouse=True)
def tidy(tmp_path, monkeypatch):
    """Each test in an empty folder, with the same random numbers; no figure outlives it."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # several would wait for each other where the cores are busy
    torch.manual_seed(0)
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def trained():
    """One model, trained once by default, for all tests that look and don't touch."""
    torch.set_num_threads(1)
    torch.manual_seed(mini_gpt.SEED)
    model = MiniGPT(17, 6)
    torch.manual_seed(mini_gpt.SEED)
    train(model, SEQUENCES)
    return model


@pytest.fixture
def no_picture(monkeypatch):
    """An empty figure instead of the heatmaps, which take their time."""
    monkeypatch.setattr(mini_gpt, "plot_attention", lambda *args, **kwargs: plt.figure())


def same_parameters(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


# ------------------------------------------------ text becomes tokens
def test_the_vocabulary_is_the_delimiter_and_then_each_token_once():
    assert VOCAB.tokens == (
        "<|endoftext|> all are attention deep fun is learn learning models need powerful "
        "representations self transformers use you").split()
    assert VOCAB.decode(VOCAB.encode(" use \t all ")) == "use all"
    vocab = Vocab(["to be", "or "], chars=True)
    assert vocab.tokens == [DELIMITER, " ", "b", "e", "o", "r", "t"]
    assert vocab.decode(vocab.encode(" be or  ")) == " be or  "
    for text, named in [("deep zebra is", "'zebra'"), ("Deep", "'Deep'.*case"), (DELIMITER, "end")]:
        with pytest.raises(ValueError, match=named):
            VOCAB.encode(text)
    with pytest.raises(ValueError, match=re.escape(DELIMITER)):  # nor may the data have one
        Vocab(["a b", f"a {DELIMITER} b"])
    Vocab([f"a{DELIMITER}b"])  # as a part of a word it marks nothing


@pytest.mark.parametrize("context", [1, 2, 3, 5, 6, 7])
def test_long_lines_are_cut_so_that_each_token_is_predicted_once(context):
    lines = [VOCAB.encode(line) for line in SENTENCES]
    pieces, rebuilt = make_sequences(lines, context), []
    assert all(2 <= len(piece) <= context + 1 for piece in pieces)
    for piece in pieces:
        if piece[0] == 0:
            rebuilt.append([0])
        assert piece[0] == rebuilt[-1][-1]  # it starts as the one before ended
        rebuilt[-1] += piece[1:]
    assert rebuilt == [[0, *ids, 0] for ids in lines] and count_predictions(pieces) == 30


# ------------------------------------------------ tokens attend to each other
def test_the_mask_forbids_exactly_what_comes_after_a_token():
    mask = causal_mask(12)
    assert mask.shape == (12, 12), "the mask must be a square: a row and a column per token"
    assert mask.dtype == torch.bool, "the mask must hold bools: True is forbidden"
    assert mask[0, -1] and not mask[1, 0], "the mask is inverted: True is right of the diagonal"
    assert not mask.diagonal().any(), "a token may see itself: the diagonal must be False"
    assert mask.diagonal(1).all(), "a token must not see the next one, which it is to predict"
    assert mask.equal(~PAST[:12, :12]), "row t must be True in all columns after t, only there"
    assert causal_mask(3, "meta").is_meta, "the mask must be on the device that it is given"


def test_attention_is_on_the_past_only_and_each_row_sums_to_1():
    weights = MaskedSelfAttention(32, 2, dropout=0.5)(torch.randn(3, 24, 32))[1]
    assert weights.shape == (3, 2, 24, 24), "weights must be (B, H, T, T)"
    assert (weights[..., PAST] > 0).all(), (
        "a token must look at itself and at all before it: is the mask inverted? no softmax?")
    assert not (weights[..., ~PAST] > 0).any(), (
        "a token looks at the future: its scores must be -inf before the softmax;"
        " and is what masked_fill returns assigned?")
    assert torch.allclose(weights.sum(dim=-1), torch.ones(3, 2, 24)), (
        "each row of weights must sum to 1: is the softmax over the last axis, after the mask?")


def attention_between(q, k):
    """Weights (H, T, T) of two heads for these queries and keys (T, C)."""
    attention = MaskedSelfAttention(q.shape[1], 2, dropout=0.0)
    qkv = torch.cat([q, k, torch.zeros_like(q)], dim=-1)[None]
    attention.qkv.register_forward_hook(lambda module, args, out: qkv)
    return attention(torch.zeros(1, *q.shape))[1][0]


def test_attention_scores_are_query_times_key_over_the_root_of_head_size():
    q, k = torch.zeros(2, 4, 32)
    q[3, 16:] = k[1, 16:] = 100.0  # in head 1, token 3 looks for what token 1 can be found by
    weights = attention_between(q, k)
    assert weights[:, 3, 1].max() > 0.99, (
        "scores[t, s] must be query t times key s: are they q @ k.transpose(-2, -1)?")
    assert torch.allclose(weights[0, 3], torch.ones(4) / 4), (
        "head 0 must have the first half of the channels, and head 1 the second: they are mixed")
    q, k = torch.zeros(2, 3, 32)
    q[1] = k[0] = 0.5  # in a head of 16 channels: 16 * 0.5 * 0.5 = 4, and 4 / root of 16 = 1
    expected = torch.tensor([1.0, 0.0]).softmax(dim=-1)
    assert torch.allclose(attention_between(q, k)[:, 1, :2], expected), (
        "scores must be divided by the square root of head_size (not of C or T, nor unrooted)")


def test_attention_makes_its_mask_on_the_device_of_x():
    attention, x = MaskedSelfAttention(8, 2, 0.0).to("meta"), torch.zeros(1, 3, 8, device="meta")
    assert attention(x)[1].shape == (1, 2, 3, 3)


# ------------------------------------------------ tokens become predictions
def test_the_model_has_its_shapes_and_refuses_more_than_its_context():
    for B, T, H, L in [(1, 1, 1, 1), (2, 5, 4, 2), (3, 8, 2, 3)]:
        model = MiniGPT(vocab_size=11, context_length=8, embed_dim=16, num_heads=H, num_layers=L)
        logits, attention_weights = model(torch.randint(11, (B, T)))
        assert logits.shape == (B, T, 11)
        assert [tuple(weights.shape) for weights in attention_weights] == [(B, H, T, T)] * L
    with pytest.raises(ValueError, match="9 tokens.*8"):
        model(torch.zeros(1, 9, dtype=torch.long))
    for embedding in list(MiniGPT(2000, 2000).children())[:2]:
        assert embedding.weight.std().item() == pytest.approx(1, abs=0.05)  # as PyTorch has it


def test_the_model_is_pytorchs_encoder_between_embeddings_and_lm_head():
    model, ids = MiniGPT(11, 24, embed_dim=16, num_layers=3).double().eval(), torch.arange(24) % 11
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)  # so large that every part makes a difference
    layer = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 3, nn.LayerNorm(16), False).double()
    for copy, block in zip(theirs.layers, model.blocks):
        ours = [block.attention.qkv, block.attention.projection, block.feed_forward[0],
                block.feed_forward[3], block.norm1, block.norm2]
        for parameter, value in zip(copy.parameters(), nn.ModuleList(ours).parameters()):
            parameter.data = value.data
    theirs.norm.load_state_dict(model.norm.state_dict())
    x = model.token_embedding.weight[ids] + model.position_embedding.weight
    (logits, weights), expected = model(ids[None]), model.lm_head(theirs(x[None], mask=~PAST))
    assert weights[0].equal(model.blocks[0](x[None])[1])  # the lowest layer comes first
    assert torch.allclose(logits, expected, rtol=0, atol=1e-10), (
        "the logits differ from those of PyTorch's own encoder with the same parameters")


def test_dropout_acts_in_four_places_of_each_block_and_nowhere_else():
    model, dropped = MiniGPT(11, 8, num_layers=3, dropout=0.7), []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda it, x, out: dropped.append((it.p, out.shape)))
    model(torch.zeros(2, 5, dtype=torch.long))
    # attention weights; what attention adds; inside the feed-forward network; what that adds
    assert dropped == 3 * [(0.7, (2, 4, 5, 5)), (0.7, (2, 5, 32)), (0.7, (2, 5, 128)),
                           (0.7, (2, 5, 32))]


# ------------------------------------------------ predictions become a loss
def test_targets_are_the_tokens_after_the_inputs_and_padding_is_none():
    inputs, targets = collate([[0, 5, 3, 9, 0], [0, 7, 0]])
    assert targets[0].tolist() == [5, 3, 9, 0], "each target must be the next token: shift once"
    assert inputs[0].tolist() == [0, 5, 3, 9], "the inputs must be all tokens but the last"
    assert inputs[1, :2].tolist() == [0, 7] and targets[1, :2].tolist() == [7, 0], (
        "padding must come after the tokens of a short sequence, on the right")
    assert targets[1, 2:].tolist() == [-100, -100], (
        "padding counts as a target: it must be -100, which cross_entropy leaves out")
    assert ((0 <= inputs) & (inputs < 10)).all(), "padding of the inputs must be an id, not -100"


def loss_of(odds, targets):
    """The loss of a model that gives each token of the vocabulary these odds."""
    model, logits, targets = nn.Linear(1, 1), torch.tensor(odds).log(), torch.tensor(targets)
    model.forward = lambda ids: (logits.requires_grad_(), []) if (ids == 7).all() else pytest.fail(
        "the model must be shown the inputs")
    return next_token_loss(model, torch.full_like(targets, 7), targets)


def test_the_loss_is_the_mean_of_minus_ln_p_without_padding():
    loss = loss_of([[[1e-30, 1.0, 1e-30], [1e-30, 1e-30, 1.0]]], [[1, 2]])
    assert loss < 10, "the targets are shifted already: the logits at t are for the target at t"
    assert loss < 1e-6, "a sure and right model has a loss above 0: cross_entropy takes logits"
    loss = loss_of([[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]], [[0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]],
                   [[0, 2], [1, -100]])
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.2)) / 3
    assert loss.shape == () and loss.item() == pytest.approx(expected, abs=1e-5), (
        "the loss must be the mean of -ln(p) over the three targets that are not padding")
    assert loss.requires_grad, "the loss must keep its gradient: no item(), no no_grad"


def test_a_loss_that_is_not_finite_is_refused():
    for odds, named in [([0.5, 0.0, 0.5], "inf"), ([0.5, math.nan, 0.5], "nan")]:
        with pytest.raises(ValueError, match=f"{named}.*learning rate"):
            loss_of([[odds]], [[1]])


def test_evaluation_is_a_mean_over_tokens_in_eval_mode():
    model = MiniGPT(17, 6, dropout=0.5)
    expected = next_token_loss(model.eval(), *collate(SEQUENCES)).item()
    for sequences, batch_size in [(SEQUENCES, 1), (SEQUENCES, 4), (SEQUENCES * 50, 32)]:
        assert evaluate(model.train(), sequences, batch_size) == pytest.approx(expected, abs=1e-5)
        assert not model.training


def test_the_entropy_floor_is_what_even_a_perfect_model_must_pay():
    assert entropy_floor(SEQUENCES) == pytest.approx(6 * math.log(6) / 30)
    pieces = 3 * [[0, 1, 2, 3]] + [[0, 2, 0], [0, 1, 0], [3, 0], [3, 1, 0]]
    nats = 3 * -math.log(3 / 5) + 2 * -math.log(1 / 5) + 2 * -math.log(1 / 2)
    assert entropy_floor(pieces) == pytest.approx(nats / 16)


# ------------------------------------------------ the loss becomes learning
def test_training_takes_steps_of_adam_on_the_mean_of_a_batch():
    model, by_hand = MiniGPT(17, 6, dropout=0.0).eval(), MiniGPT(17, 6, dropout=0.0)
    by_hand.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for loss in train(model, SEQUENCES, epochs=3, lr=0.01):
        expected = next_token_loss(by_hand, *collate(SEQUENCES))
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert loss == pytest.approx(expected.item(), abs=1e-4)


def test_an_epoch_shows_every_sequence_once_in_a_new_order_with_dropout():
    model, seen = MiniGPT(17, 6).eval(), []
    model.register_forward_pre_hook(lambda module, args: seen.append((
        module.training, [tuple(filter(None, ids)) for ids in args[0].tolist()])))
    train(model, SEQUENCES, epochs=8, batch_size=4)
    assert all(training for training, _ in seen) and not model.training
    epochs = {(*one, *other) for (_, one), (_, other) in zip(seen[::2], seen[1::2])}
    assert [len(batch) for _, batch in seen] == [4, 2] * 8 and len(epochs) > 1
    for epoch in epochs:
        assert sorted(epoch) == sorted(tuple(filter(None, ids)) for ids in SEQUENCES)


def test_progress_is_up_to_ten_lines_with_the_mean_since_the_last(capsys):
    for epochs, every in [(3, 1), (10, 1), (11, 2), (45, 5)]:
        losses = train(MiniGPT(17, 6), SEQUENCES, epochs=epochs)
        assert len(losses) == epochs and capsys.readouterr().out.splitlines() == [
            f"step {step:8}/{epochs}  loss {sum(losses[step - every:step]) / every:.4f}"
            for step in sorted({*range(every, epochs + 1, every), epochs})]  # and the last step


# ------------------------------------------------ learning becomes text
def sampled(factor=1.0, **options):
    """The odds that come of those four, as a list; their logits multiplied by a factor."""
    return sampling_probabilities(factor * torch.tensor(FOUR).log(), **options).tolist()


def kept(odds):
    return {i for i, p in enumerate(odds) if p > 0}


def test_sampling_leaves_the_logits_as_they_were():
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor(FOUR, dtype=dtype).log()
        sampling_probabilities(logits, 2.0, 2, 0.5)
        assert logits.equal(torch.tensor(FOUR, dtype=dtype).log()), "logits were changed in place"


def test_sampling_divides_the_logits_by_the_temperature():
    assert kept(sampled()) == {0, 1, 2, 3}, "top_p=1.0 must keep all: also the one which reaches 1"
    assert sampled() == pytest.approx(FOUR, abs=1e-5), (
        "each token must have its probability of the softmax, at its place in the vocabulary")
    for temperature in (0.5, 3.0):
        expected = (torch.tensor(FOUR).log() / temperature).softmax(dim=-1).tolist()
        assert sampled(temperature=temperature) == pytest.approx(expected, abs=1e-5), (
            "logits must be divided by the temperature: below 1 makes the odds sharper")


def test_sampling_with_top_k_keeps_the_k_likeliest():
    for k, those in [(1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (9, {0, 1, 2, 3})]:
        odds = sampled(top_k=k)
        assert kept(odds) == those, f"top_k={k} must keep the {k} likeliest, or all there are"
        assert sum(odds) == pytest.approx(1), "what top_k leaves must sum to 1 again: normalize it"


def test_sampling_with_top_p_keeps_the_fewest_that_reach_p():
    for p, those in [(1e-9, {1}), (0.49, {1}), (0.51, {1, 3}), (0.79, {1, 3}), (0.81, {0, 1, 3}),
                     (0.96, {0, 1, 2, 3}), (1.0, {0, 1, 2, 3})]:
        odds = sampled(top_p=p)
        assert kept(odds) == those, (
            f"top_p={p} must keep the fewest likeliest that reach it, with the one that does")
        assert sum(odds) == pytest.approx(1), "what top_p leaves must sum to 1 again: normalize it"
    assert 1 in sampling_probabilities(torch.zeros(2), top_p=0.5), "a token of 0.5 reaches 0.5"
    assert kept(sampled(top_p=0.8, temperature=0.25)) == {1}, "the temperature comes before top_p"
    assert kept(sampled(top_p=0.6, top_k=2)) == {1}, (
        "top_p must look at what top_k has left, normalized: 0.5 / 0.8 is more than 0.6")
    assert sampled(top_p=0.8, top_k=3) == pytest.approx([0, 0.625, 0, 0.375], abs=1e-5), (
        "kept tokens must keep their proportions, and sum to 1")


def test_extreme_temperatures_overflow_nothing_and_bad_ones_are_refused():
    assert sampled(1000, temperature=5e-324) == sampled(1000, temperature=1e-40) == [0, 1, 0, 0]
    assert sampled(1000, temperature=1e300) == pytest.approx([0.25] * 4)
    for bad in ({"temperature": -1.0}, {"temperature": math.nan}, {"temperature": 0},
                {"top_k": 0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="temperature > 0, top_k > 0 and 0 < top_p <= 1"):
            sampled(**bad)


class Scripted(nn.Linear):
    """Stands in for a model: it says these words, one each time that it is asked."""

    def __init__(self, words, context_length=100):
        super().__init__(1, 1)
        self.words, self.context_length, self.seen = words.split(), context_length, []

    def forward(self, ids):
        assert len(self.seen) < len(self.words), (
            "generation goes on after the delimiter, or after max_new_tokens")
        logits = torch.eye(17)[16].repeat(1, ids.shape[1], 1)  # elsewhere than at the end: "you"
        logits[0, -1] = torch.eye(17)[VOCAB.tokens.index(self.words[len(self.seen)])]
        self.seen.append(VOCAB.decode(ids[0].tolist()))
        self.learns = self.training or torch.is_grad_enabled()
        return logits, []


def test_generation_appends_the_likeliest_token_after_the_last():
    model = Scripted("models use attention")
    text = generate("deep", model, VOCAB, max_new_tokens=3)
    assert len(model.seen) == 3, "generation must ask max_new_tokens times, if no delimiter comes"
    assert text == "deep models use attention", (
        "the next token must be the likeliest by the logits at the last position: logits[:, -1]")


def test_generation_stops_at_the_delimiter():
    model = Scripted("learning <|endoftext|> fun fun")
    text = generate("deep", model, VOCAB, max_new_tokens=4)
    assert len(model.seen) == 2, "generation must stop when the model says <|endoftext|>"
    assert text == "deep learning", "stopped too late: the delimiter is no part of the text"


def test_generation_shows_the_model_the_last_tokens_of_the_context():
    model = Scripted("is all you need", context_length=3)
    generate("use", model, VOCAB, max_new_tokens=4)
    assert model.seen[:2] == [f"{DELIMITER} use", f"{DELIMITER} use is"], (
        "the model must be shown all tokens that there are, if they fit into its context")
    assert model.seen[2:] == ["use is all", "is all you"], (
        "the model must be shown the last context_length tokens, not the first")


def test_generation_above_temperature_0_samples_as_it_is_told(monkeypatch):
    def odds(logits, temperature=1.0, top_k=None, top_p=1.0):
        asked.append((VOCAB.tokens[logits.argmax()], temperature, top_k, top_p))
        return torch.eye(17)[VOCAB.tokens.index("fun")]

    asked = []
    monkeypatch.setattr(mini_gpt, "sampling_probabilities", odds)
    text = generate("deep", Scripted("is all"), VOCAB, 2, temperature=0.7, top_k=3, top_p=0.9)
    assert asked == [("is", 0.7, 3, 0.9), ("all", 0.7, 3, 0.9)], (
        "sampling_probabilities must get the last logits (V,), temperature, top_k and top_p")
    assert text == "deep fun fun", "above temperature 0 the next token must be drawn from the odds"


def test_generate_needs_a_model_and_leaves_it_in_eval_mode():
    model = Scripted("fun " * 20).train()
    assert generate("", model, VOCAB) == " ".join(model.words) and model.seen[0] == DELIMITER
    assert not model.training and not model.learns
    for arguments in [("deep",), ("deep", model), ("deep", None, VOCAB)]:  # after an import
        with pytest.raises(ValueError, match="pass a trained model"):
            generate(*arguments)


def test_the_trained_model_knows_the_sentences_and_how_often_they_come(trained):
    assert 0 < evaluate(trained, SEQUENCES) - entropy_floor(SEQUENCES) < 0.03
    for first_word in ["", *{sentence.split()[0] for sentence in SENTENCES}]:
        assert generate(first_word, trained, VOCAB) in SENTENCES
    texts = [generate("deep learning is", trained, VOCAB, 20, 1.0, None, 0.9) for _ in range(200)]
    assert set(texts) == {"deep learning is powerful", "deep learning is fun"}
    assert 50 < texts.count("deep learning is fun") < 150


# ------------------------------------------------ learning becomes a picture
def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def cells(ax):
    """The numbers behind the colours of a panel, masked where it is blank."""
    values = ax.collections[0].get_array()
    return values.reshape(math.isqrt(values.size), -1)


def test_the_picture_has_a_panel_per_head_with_a_cell_per_pair_of_words():
    weights = torch.rand(2, 2, 3, 4, 4, requires_grad=True) * PAST[:4, :4]  # (L, B, H, T, T)
    plot_attention(list(weights), layer=1, tokens=["a", "$^$", " ", "\t"])
    *panels, scale = plt.gcf().axes
    assert [ax.get_title() for ax in panels] == [f"layer 1, head {h}" for h in range(3)]
    for head, ax in enumerate(panels):
        assert cells(ax).mask.tolist() == (~PAST[:4, :4]).tolist()
        shown = torch.tensor(cells(ax).filled(0.0)).float()
        assert torch.allclose(shown, weights[1, 0, head]) and ax.collections[0].get_clim() == (0, 1)
        assert [text.get_text() for text in ax.texts] == [f"{w:.2f}" for w in shown[PAST[:4, :4]]]
        assert labels(ax.xaxis) == labels(panels[0].yaxis) == ["a", "$^$", "␣", "⇥"]
        assert list(ax.get_xticks()) == list(ax.get_yticks()) == [0.5, 1.5, 2.5, 3.5]
        assert ax.yaxis_inverted() and not ax.xaxis_inverted()
    assert [scale.get_ylabel(), plt.gcf().get_supylabel()] == ["attention weight", "this token ..."]
    assert plt.gcf().get_supxlabel() == "... attends to this token"
    plt.savefig("words.png")  # $ starts no formula


def test_a_picture_of_many_tokens_has_40_labels_and_shows_any_look_ahead():
    weights = torch.ones(1, 1, 200, 200).tril()
    weights[..., 3, 7], weights[..., 7, 3] = 1, 0  # the future, by a model without its mask
    plot_attention([weights])
    ax, _ = plt.gcf().axes
    assert cells(ax).mask[7].tolist() == [False] * 8 + [True] * 192
    assert not cells(ax).mask[3, 7] and cells(ax).mask.sum() == 100 * 199 - 1
    assert labels(ax.xaxis) == labels(ax.yaxis) == [str(t) for t in range(0, 200, 5)]
    assert list(ax.get_xticks()) == [t + 0.5 for t in range(0, 200, 5)] and not ax.texts
    assert max(plt.gcf().get_size_inches()) < 10
    plt.savefig("many.png", dpi=50)
    dark = plt.imread("many.png")[..., :3].sum(axis=-1) < 1.5
    assert dark.mean() > 0.15  # the lower triangle, all ones, is dark: no lines hide it


# ------------------------------------------------ the command line
def prepared(options=""):
    """What main prepares before it trains: vocab, prompt, training, held_out, model."""
    return prepare(read_options(options.split()))


def outcome(printed):
    """The printed lines but for those of progress."""
    return [line.rstrip() for line in printed.splitlines() if not line.startswith("step")]


def test_the_command_line_does_what_its_functions_do(capsys):
    letters = random.Random(5)
    lines = ["".join(letters.choices("abc ", k=letters.randint(1, 12))) + "." for _ in range(30)]
    Path("mine.txt").write_text("\n".join(lines + lines[:5]), encoding="utf-8")
    options = ("--data mine.txt --chars --holdout 0.25 --embed-dim 30 --heads 5 --layers 2 "
               "--dropout 0.15 --epochs 3 --batch-size 7 --lr 0.004 --seed 11 --top-p 0.85 "
               "--max-new-tokens 9 --temperature 0.9 --top-k 4 --samples 6 --prompt abcabcabcabcab "
               "--plot shapes.svg")
    model, vocab, tokens, attention_weights = main(options)
    printed = outcome(capsys.readouterr().out)
    by_hand, context = Vocab(lines, chars=True), 1 + max(map(len, lines))
    _, _, training, held_out, _ = prepared(options)
    torch.manual_seed(11)
    gpt = MiniGPT(len(by_hand.tokens), context, 30, 5, 2, 0.15)
    torch.manual_seed(11)
    train(gpt, training, epochs=3, batch_size=7, lr=0.004)
    parameters = sum(math.prod(parameter.shape) for parameter in gpt.parameters())
    losses = [evaluate(gpt, part) for part in (training, held_out)]
    texts = [generate("abcabcabcabcab", gpt, by_hand, 9, 0.9, 4, 0.85) for _ in range(6)]
    assert printed == [
        f"data      {count_predictions(training):,} tokens to predict, vocabulary of 6",
        f"floor     {entropy_floor(training):.4f} nats/token; guessing costs {math.log(6):.4f}",
        f"model     {parameters:,} parameters on cpu",
        f"training  loss {losses[0]:.4f}, perplexity {math.exp(losses[0]):.2f}",
        f"held-out  loss {losses[1]:.4f}, perplexity {math.exp(losses[1]):.2f}",
        *(f"text      {text}".rstrip() for text in texts), "picture   shapes.svg"]
    assert same_parameters(model, gpt) and vocab.tokens == by_hand.tokens
    ids = [0, *vocab.encode(texts[0])][-context:]  # what is drawn
    assert tokens == [vocab.tokens[i] for i in ids]
    for weights, again in zip(attention_weights, gpt(torch.tensor([ids]))[1]):
        assert torch.allclose(weights, again) and not weights.requires_grad
    ax = plt.gcf().axes[0]
    assert labels(ax.xaxis) == [token.replace(" ", "␣") for token in tokens]
    assert cells(ax).filled(0.0) == pytest.approx(attention_weights[0][0, 0].numpy())
    assert "<svg" in Path("shapes.svg").read_text(encoding="utf-8")
    assert len(attention_weights) == 2 and len(list(Path().iterdir())) == 2


def test_by_default_it_does_what_the_functions_do_by_default(trained, capsys):
    model, vocab, tokens, _ = main()
    printed = outcome(capsys.readouterr().out)
    assert same_parameters(model, trained) and vocab.tokens == VOCAB.tokens
    text = generate("deep", trained, VOCAB)
    assert text in SENTENCES and tokens == [DELIMITER, *text.split()]
    assert printed[2] == "model     26,769 parameters on cpu"  # an lm_head of its own included
    assert printed[4:] == [f"text      {text}", "picture   attention.png"]  # no bug, no held-out


def test_the_options_have_the_defaults_that_help_shows(capsys):
    assert vars(read_options("--seed 5 --chars".split())) == {
        "data": None, "chars": True, "holdout": 0.0, "embed_dim": 32, "heads": 4, "layers": 2,
        "dropout": 0.1, "epochs": 300, "batch_size": 32, "lr": 0.001, "seed": 5, "device": "cpu",
        "prompt": None, "max_new_tokens": 20, "temperature": 0.0, "top_k": None, "top_p": 1.0,
        "samples": 1, "plot": Path("attention.png")}
    with pytest.raises(SystemExit) as stop:
        main("--help")
    printed = " ".join(re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).split())
    assert stop.value.code == 0 and "how often each line is seen (default: 300)" in printed


def test_own_text_is_read_line_by_line_and_the_longest_sets_the_context():
    Path("mine.txt").write_bytes("\ufeffgrüß dich\r\n\r\n \f\r\n\tdich\u2028auch \r\n".encode())
    vocab, prompt, training, held_out, _ = prepared("--data mine.txt")
    assert vocab.tokens == [DELIMITER, "auch", "dich", "grüß"] and prompt == ""
    assert training == [[0, 3, 2, 0], [0, 2, 1, 0]] and held_out == []
    vocab, prompt, training, *_ = prepared("--data mine.txt --chars --prompt ich")
    assert vocab.decode(training[1][1:-1]) == "\tdich\u2028auch " and prompt == "ich"
    assert "\f" not in vocab.tokens  # which is in a blank line only
    assert prepared()[1] == "deep" and prepared("--prompt=")[1] == ""
    for seed in range(20):  # also where the longest line is held out
        assert prepared(f"--holdout 0.8 --seed {seed}")[-1].context_length == 6
    Path("mine.txt").write_text("a\n" + "b " * 500, encoding="utf-8")
    _, _, training, _, model = prepared("--data mine.txt")
    assert model.context_length == 128 == max(map(len, training)) - 1


def test_held_out_lines_and_their_copies_are_never_trained_on():
    lines = "".join(f"n {n % 40}{n % 3 * ' '}\n" for n in range(100))
    Path("mine.txt").write_text(lines, encoding="utf-8")
    vocab, _, training, held_out, _ = prepared("--data mine.txt --holdout 0.26")
    one, other = set(map(tuple, training)), set(map(tuple, held_out))
    assert len(one) == 29 and len(other) == 11 and not one & other  # ceil(0.26 * 40) is 11
    assert len(training) + len(held_out) == 100 and len(vocab.tokens) == 42
    other_seed = prepared(f"--data mine.txt --holdout 0.26 --seed {mini_gpt.SEED + 1}")
    assert held_out == prepared("--data mine.txt --holdout 0.26")[3] != other_seed[3]


DEVICES = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
BAD_OPTIONS = """--epochs 0: from 1 | --epochs many: invalid int value: 'many' | --epochs 1.5: int
--seed 2147483648: 2147483647 | --dropout 1.1: not from 0 to 1 | --lr nan: lr | --lr inf: lr
--heads 5: 5 heads | --seed -1: seed | --prompt zebra: 'zebra' | --chars --prompt q: 'q'
--device abacus: abacus | --plot no/a.png: folder | --plot a.jpg: .jpg | --epoch 3: --epoch
--temperature -0.1: temperature | --temperature 1 --top-k 0: top-k | --holdout 1: all of its 6
--temperature 1 --top-p 0: top-p | --top-k 3: temperature | --top-p 0.9: temperature
--samples 2: temperature | --data no.txt: no.txt | --data .: '.' | --data empty.txt: is empty
--data latin.txt: utf-8 | --data marked.txt: endoftext | --holdout 2: not from 0 to 1
--lr 1e7: rate | --lr 1e7 --epochs 1: rate | --epochs 1 --plot folder.png: folder.png"""


@pytest.mark.parametrize("options, named", [
    *(case.split(": ", 1) for case in re.split(r" \| |\n", BAD_OPTIONS)),
    *((f"--device {name}", f"{name} is not available") for name in DEVICES if not DEVICES[name])])
def test_a_bad_option_is_refused_in_one_line(options, named, capsys, no_picture):
    for name, text in [("empty", b" \n"), ("latin", b"caf\xe9"), ("marked", b"<|endoftext|>")]:
        Path(f"{name}.txt").write_bytes(text)
    Path("folder.png").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(options.split())
    out, err = capsys.readouterr()
    assert err.startswith("mini_gpt.py: error: ") and err.count("\n") == 1 and named in err
    assert stop.value.code == 2 and len(list(Path().iterdir())) == 4
    assert stop.value.__context__ is None  # Colab can't show an exit that has one
    assert out == "" or named in ("rate", "folder.png")  # which shows late


def test_a_mistake_in_the_code_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(mini_gpt, "collate", lambda rows: torch.zeros(1, 3).long().split([2, 1], 1))
    with pytest.raises(ValueError):  # and not SystemExit
        main()


@pytest.mark.parametrize("options", [
    "--dropout 0 --plot a.pdf", "--dropout 1", "--lr 0", "--temperature 1e-40 --top-p 1e-6",
    "--holdout 0.8", "--batch-size 2147483647", "--heads 1 --layers 1 --embed-dim 1",
    "--embed-dim 272 --layers 1", "--embed-dim 320 --layers 1",
    *(f"--device {name} --temperature 1 --top-p 0.9" for name in DEVICES if DEVICES[name])])
def test_options_at_the_edge_of_what_is_accepted_work(options, monkeypatch, no_picture):
    monkeypatch.setattr(mini_gpt, "THREADS", 2)
    model, *_ = main(f"{options} --epochs 2")
    assert torch.get_num_threads() == (2 if "320" in options else 1)  # a million parameters
    torch.manual_seed(mini_gpt.SEED)
    assert same_parameters(model.cpu(), MiniGPT(17, 6)) == (options == "--lr 0")


def test_ctrl_c_ends_training_and_later_everything(monkeypatch, capsys, no_picture):
    def interrupted(*args):
        calls.append(args)
        if len(calls) in (4, 7):  # in the fourth step; when the second model is evaluated
            raise KeyboardInterrupt
        return next_token_loss(*args)

    calls, (three_epochs, *_) = [], main("--epochs 3 --plot three.png")
    capsys.readouterr()
    monkeypatch.setattr(mini_gpt, "next_token_loss", interrupted)
    model, *_ = main("--plot four.png")
    printed = capsys.readouterr().out.splitlines()
    assert same_parameters(model, three_epochs) and not model.training
    assert printed[3] == "stopped at step 3" and printed[-1] == "picture   four.png"
    with pytest.raises(SystemExit) as stop:
        main("--epochs 1")
    assert stop.value.code == 130 and stop.value.__context__ is None
    assert capsys.readouterr().err == "interrupted\n" and len(list(Path().iterdir())) == 2


def test_what_the_output_cannot_show_is_printed_as_a_question_mark(monkeypatch, no_picture):
    Path("mine.txt").write_text("naïve", encoding="utf-8")
    for stream, shown in [(io.TextIOWrapper(io.BytesIO(), "ascii"), "na?ve"),
                          (io.StringIO(), "naïve")]:  # which has no encoding
        monkeypatch.setattr(sys, "stdout", stream)
        main("--data mine.txt --epochs 1 --prompt naïve")
        stream.seek(0)
        assert f"text      {shown}" in stream.read()


# ------------------------------------------------ scripts, notebooks, edits
def run_cell(old, new, **names):
    """The names that are there after the source, with one edit, has run as a cell."""
    exec(SCRIPT.read_text(encoding="utf-8").replace(old, new), names)
    return names


@pytest.mark.parametrize("old, new", [
    ('scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))', ""),
    ("clamp(min=0), ids[:, 1:]", "clamp(min=0), ids[:, :-1]"),
    ("F.softmax(scores, dim=-1)", "F.softmax(scores, dim=-2)"),
], ids=["no mask", "not shifted", "wrong axis"])
def test_what_is_below_the_floor_is_called_a_bug(old, new, capsys):
    edited = run_cell(old, new, __name__="edited")
    edited["plot_attention"] = lambda *args, **kwargs: plt.figure()
    edited["main"]("--epochs 100 --lr 0.01")
    printed = outcome(capsys.readouterr().out)
    assert printed[4] == "bug?      below the floor: check mask, targets, softmax axis"


@pytest.mark.parametrize("file", [{}, {"__file__": "/tmp/ipykernel_1/2.py"}], ids=["", "file"])
def test_a_notebook_ignores_its_kernels_options(file, monkeypatch, trained, capsys):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    names = run_cell("EPOCHS = 300", "EPOCHS = 2", __name__="__main__", **file)
    assert " 2/2 " in capsys.readouterr().out and len(plt.get_fignums()) == 1
    assert names["generate"]("deep") == generate("deep", names["model"], VOCAB)
    assert names["generate"]("deep", trained, VOCAB) == generate("deep", trained, VOCAB)
    assert len(names["tokens"]) > 1 and len(names["attention_weights"]) == 2
    shouting = Vocab(SENTENCES)
    shouting.tokens = [token.upper() for token in VOCAB.tokens]
    names.update(model=trained, vocab=shouting)  # as a later cell would
    assert names["generate"]("deep") == generate("deep", trained, VOCAB).upper()


def test_run_as_a_script_it_takes_options_and_prints_what_main_does(capfd):
    options = "--layers 1 --epochs 20 --holdout 0.5 --temperature 1 --samples 5 --plot script.png"
    subprocess.run([sys.executable, SCRIPT, *options.split()], check=True)
    printed = capfd.readouterr()
    main(options)
    assert printed == capfd.readouterr()


# ------------------------------------------------ the README
def readme():
    """The text of the README; where it isn't beside the tests, there is nothing to check."""
    path = SCRIPT.with_name("README.md")
    if not path.exists():
        pytest.skip("the README is not beside the tests")
    return path.read_text(encoding="utf-8")


def run_readme_cell(names, start, *changes):
    """Run the README's cell that starts like this, with some (old, new) changes."""
    cell, = re.findall(rf"```python\n({re.escape(start)}.*?)```", readme(), flags=re.DOTALL)
    for old, new in changes:
        assert old in cell
        cell = cell.replace(old, new)
    exec(cell, names)


def readme_numbers(start):
    """The numbers with a decimal point in the README's line that starts like this."""
    line, = [line for line in readme().splitlines() if line.startswith(start)]
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]


@pytest.fixture
def notebook(trained):
    """The names that are there in a notebook after the file has run in a cell."""
    names = run_cell("", "", __name__="notebook")
    names.update(model=trained, vocab=VOCAB, tokens=[DELIMITER, *SENTENCES[0].split()],
                 attention_weights=trained(torch.tensor([SEQUENCES[0][:-1]]))[1])
    return names


def test_the_readme_names_what_the_file_has(capsys, no_picture):
    model, _, _, _ = main("--epochs 1")
    for line in capsys.readouterr().out.splitlines()[:2]:
        assert f"\n`{line}` | " in readme()
    block = model.blocks[0]
    for part, number in [(model, "26,769"), (block, "12,704"), (block.attention, "4,224"),
                         (block.feed_forward, "8,352")]:
        assert f"{sum(parameter.numel() for parameter in part.parameters()):,}" == number
        assert number in readme()
    options = vars(read_options([]))
    for value, option in re.findall(r"\| ([\d.]+) `--([a-z-]+)`", readme()):
        assert options[option.replace("-", "_")] == float(value), option
    assert {name.replace("_", "-") for name in options} <= {*re.findall(r"--([a-z-]+)", readme())}
    words = re.findall(r" \| `([a-z]+)`$", readme(), flags=re.MULTILINE)
    assert len(words) == 6 and all(word in " ".join(globals()) for word in words)


def test_the_readmes_first_cells_complete_draw_and_follow_a_prediction(notebook, capsys):
    run_readme_cell(notebook, 'print(generate("deep"))')  # the first cell
    assert capsys.readouterr().out.strip() in SENTENCES
    assert plt.gcf().axes[0].get_title() == "layer 1, head 0"
    run_readme_cell(notebook, 'model, vocab, tokens, attention_weights = main("--dropout 0")')
    weights = notebook["weights"]
    for row, values in [
            ("x", notebook["x"][0, 3, :4]), ("scores", notebook["scores"][3]),
            ("collected", notebook["collected"][3, :4]),
            ("weights", torch.cat([weights[1, :2], weights[3]]))]:
        assert readme_numbers(f"`{row}`") == pytest.approx(values.tolist(), abs=0.011), row
    assert readme_numbers("`probabilities`")[:2] == pytest.approx(
        notebook["probabilities"].tolist(), abs=0.011)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].endswith("True") and printed[-1] in ("powerful", "fun")


def test_experiment_1_without_its_mask_a_model_dives_below_the_floor(notebook):
    run_readme_cell(notebook, "def train_with")
    curves = plt.figure(plt.get_fignums()[0]).axes[0].get_lines()
    honest, cheat, floor = (line.get_ydata() for line in curves)
    assert floor[0] < sum(honest[-30:]) / 30 < floor[0] + 0.06
    assert sum(cheat[-30:]) / 30 < floor[0] / 4
    assert (notebook["honest"][1][0, :, causal_mask(5)] == 0).all()
    assert (notebook["cheat"][1][0, :, causal_mask(5)] > 0.5).any()
    assert notebook["causal_mask"] is notebook["real_mask"]


def test_experiment_2_a_high_temperature_makes_new_sentences(notebook, capsys):
    run_readme_cell(notebook, "model, vocab, tokens, attention_weights = main()\n",
                    ("model, vocab, tokens, attention_weights = main()", ""), ("300", "60"))
    new = [int(n) for n in re.findall(r"new: (\d+)", capsys.readouterr().out)]
    assert new[0] == new[1] == 0 and new[2] < 20 and new[3] > 30


def test_experiment_3_a_gpt_reaches_back_where_an_lstm_does_not(notebook, capsys):
    run_readme_cell(notebook, "class MiniLSTM")
    gpt, lstm = (line.get_ydata() for line in plt.gca().get_lines())
    assert min(gpt) > 1e-3 and lstm[0] < 1e-8 and lstm[-1] > 1e-3
    run_readme_cell(notebook, "words = [", ("k=16", "k=10"), (", 16)", ", 10)"), (", 15)", ", 9)"),
                    ("badcafefeedhagge", "badcafefee"), (", 34)", ", 22)"),
                    ("--epochs 15", "--epochs 8"), ("epochs=15", "epochs=8"))
    copied = [int(n) for n in re.findall(r"(\d+) of 50", capsys.readouterr().out)]
    assert copied[0] >= 45 and copied[1] <= 10 and copied[2] == 0


def test_experiment_4_two_blocks_repeat_a_word_and_one_does_not(notebook, capsys):
    run_readme_cell(notebook, "random.seed(0)", ("--epochs 15", "--epochs 8"), ("0.003", "0.005"))
    printed = capsys.readouterr().out
    one, two = (int(n) for n in re.findall(r"(\d+) of 50", printed))
    assert one < 5 and two > 15
    whole, *silenced = map(float, re.findall(r"\) loss (\S+)", printed))
    assert max(silenced) > whole + 0.5


@pytest.mark.parametrize("old, new, options, before, after", [
    ("self.token_embedding(ids) + self.position_embedding(positions)", "self.token_embedding(ids)",
     "--data order.txt --layers 1", 0.125, 0.241),
    ("x = x + self.dropout(attended)", "x = x", "--data order.txt --layers 1", 0.125, 0.355),
    ("x = x + self.dropout(attended)", "x = self.dropout(attended)", "--layers 12 --epochs 60",
     0.58, 2.64),
], ids=["positions", "past", "residual"])
def test_experiment_5_an_edit_changes_what_is_learned(old, new, options, before, after, capsys):
    Path("order.txt").write_text("dog bites man : sad\nman bites dog : funny", encoding="utf-8")
    assert f"`{old}` → `{new}`" in readme()
    for edit, expected in [(old, before), (new, after)]:
        edited = run_cell(old, edit, __name__="edited")
        edited["plot_attention"] = lambda *args, **kwargs: plt.figure()
        edited["main"](options)
        loss = float(re.search(r"training  loss (\S+),", capsys.readouterr().out)[1])
        assert loss == pytest.approx(expected, rel=0.2)


def test_experiment_5_the_root_and_layernorm_keep_numbers_in_bounds():
    scores = (torch.randn(2000, 1, 64) * torch.randn(2000, 10, 64)).sum(dim=-1)  # query * keys
    largest = [s.softmax(dim=-1).amax(dim=-1).mean().item() for s in (scores, scores / 8)]
    assert largest == pytest.approx([0.86, 0.32], abs=0.02)  # as the file says
    model = run_cell("nn.LayerNorm(embed_dim)", "nn.Identity()", __name__="x")["MiniGPT"](17, 6)
    train(model, SEQUENCES, lr=0.05)
    assert evaluate(model, SEQUENCES) > math.log(17)


def test_a_trained_model_can_be_saved_and_loaded_as_the_readme_says(trained):
    names = {"torch": torch, "model": trained, "vocab": VOCAB}
    for line in re.search(r"`(torch.save.*?)`; `(.*?)`\n", readme()).groups():
        exec(line, names)
    assert names["model"] is not trained and same_parameters(names["model"], trained)
    assert generate("deep", names["model"], names["vocab"]) == generate("deep", trained, VOCAB)
