"""What Mini GPT claims, checked. Run `pytest` beside mini_gpt.py.

The suite has three parts:

    1  six claims that make it a GPT, however it is written
    2  the parts of the file, in the file's order
    3  the whole story, the command line, notebooks

    pytest                      all of it, in about 20 seconds
    pytest -x --tb=short        ends at the first test that fails
    pytest -k test_attention_   only the tests of one part

Each test is named after its part and what must be true. It arranges
something, acts, and asserts what has come of it. Where one mistake is the
likely reason of a failure, the message says so.

The tests of a part look at what it does, and not at how. So a part can be
written anew, as long as names, arguments and layers (qkv, projection,
norm1 ...) stay. For this there is a lab:

    python test_mini_gpt.py --blank attention   sets an exercise
    python test_mini_gpt.py --bug 4711          hides a bug

The end of this file makes it.
"""

import argparse
import ast
import copy
import io
import math
import random
import re
import runpy
import shutil
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import mini_gpt
from mini_gpt import (
    DELIMITER, SENTENCES, GPTBlock, InputError, MaskedSelfAttention, MiniGPT, Vocab,
    attention_of, causal_mask, collate, count_predictions, entropy_floor, evaluate,
    generate, hold_out, label, main, make_sequences, next_token_loss, next_tokens,
    plot_attention, print_loss, run, sampling_probabilities, train)

plt.switch_backend("Agg")  # draws without a window
torch.set_num_threads(1)  # several would wait for each other on a busy machine
SCRIPT = Path(mini_gpt.__file__).resolve()
SOURCE = SCRIPT.read_text(encoding="utf-8")
if SCRIPT.parent != Path(__file__).resolve().parent:
    raise ImportError(f"{SCRIPT} was imported, and not the file beside {__file__}")

VOCAB = Vocab(SENTENCES)
V = len(VOCAB.tokens)
LINES = [VOCAB.encode(sentence) for sentence in SENTENCES]
SEQUENCES = make_sequences(LINES, context_length=6)
PAST = torch.ones(24, 24).tril().bool()  # row t: True in the columns up to t


@pytest.fixture(autouse=True)
def tidy(tmp_path, monkeypatch):
    """Each test starts in an empty folder, from the same random numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mini_gpt, "last_run", (None, None))
    torch.manual_seed(0)
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def trained():
    """A model that has learned the six sentences, only to be looked at."""
    torch.manual_seed(mini_gpt.SEED)
    model = MiniGPT(V, context_length=6)
    torch.manual_seed(mini_gpt.SEED)
    train(model, SEQUENCES)
    return model


class Says(nn.Linear):
    """Stands in for a model: a function of ids (B, T) gives its logits."""

    def __init__(self, logits_of, context_length=100):
        super().__init__(1, 1)  # a parameter, which says where the model is
        self.logits_of = logits_of
        self.context_length = context_length

    def forward(self, ids):
        assert ids.dim() == 2, "the model needs ids (B, T): a batch of sequences"
        return self.logits_of(ids), []


def same_parameters(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def number_of_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ====================== part 1: six claims =======================
def test_claim_1_the_past_does_not_depend_on_the_future():
    model = MiniGPT(vocab_size=17, context_length=8).eval()
    text = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
    other_future = torch.tensor([[0, 1, 2, 3, 4, 9, 9, 9]])

    logits, _ = model(text)
    again, _ = model(text)
    other_logits, _ = model(other_future)

    assert logits.isfinite().all(), "the logits are nan: does each token see itself?"
    assert logits.equal(again), (
        "two results for one text: does eval() reach each dropout? (It doesn't look"
        " into a plain list of blocks.)")
    same = torch.isclose(logits, other_logits, atol=1e-5).all(dim=-1)[0]
    assert same[:5].all(), "the future leaks: later tokens change what came before them"
    assert not same[5:].any(), "a token must matter at its place and after it"


def test_claim_1_what_is_predicted_learns_nothing_from_the_future():
    model = MiniGPT(vocab_size=17, context_length=8).eval()
    vectors = []  # of the tokens, as they go into the model
    model.blocks[0].register_forward_pre_hook(
        lambda module, args: vectors.append(args[0]))
    logits, _ = model(torch.arange(8)[None])

    for t in range(8):
        gradient, = torch.autograd.grad(logits[0, t].norm(), vectors, retain_graph=True)
        size = gradient[0].norm(dim=-1)  # (T,)

        assert (size[t + 1:] < 1e-6).all(), f"the logits at {t} depend on later tokens"
        assert (size[:t + 1] > 1e-6).all(), f"the logits at {t} must depend on 0 to {t}"


@pytest.mark.parametrize("B, T, H, blocks", [(1, 1, 1, 1), (2, 5, 4, 2), (3, 8, 2, 0)])
def test_claim_2_each_token_gets_logits_and_each_block_has_its_picture(B, T, H, blocks):
    model = MiniGPT(11, context_length=8, embed_dim=16, num_heads=H, num_layers=blocks)

    logits, attention_weights = model(torch.randint(11, (B, T)))

    assert logits.shape == (B, T, 11)
    assert [weights.shape for weights in attention_weights] == [(B, H, T, T)] * blocks


def test_claim_3_nothing_is_learned_from_padding():
    model = MiniGPT(vocab_size=17, context_length=8).eval()
    inputs, targets = collate([[0, 5, 0], [0, 4, 8, 6, 11, 0]])

    learned = []
    for filler in 0, 1, 16:
        filled = inputs.where(targets != -100, torch.tensor(filler))
        loss = next_token_loss(model, filled, targets)
        gradients = torch.autograd.grad(
            loss, list(model.parameters()), materialize_grads=True)
        learned.append((loss, *gradients))

    for other in learned[1:]:
        for one, another in zip(learned[0], other, strict=True):
            assert torch.allclose(one, another, atol=1e-6), (
                "the filler's id must not matter: its targets must be left out")


def test_claim_4_it_learns_down_to_the_floor_and_no_further(trained):
    untrained = MiniGPT(V, context_length=6)

    before, after = evaluate(untrained, SEQUENCES), evaluate(trained, SEQUENCES)
    floor = entropy_floor(SEQUENCES)

    assert before == pytest.approx(math.log(V), abs=0.6), (
        "a model that knows nothing must start near ln V: is the loss a mean over"
        " targets without padding, and is lm_head a layer of its own (not the large"
        " token embedding)?")
    assert after > floor, (
        "nothing can be below the floor: does the model see the future, or are the"
        " targets not one step ahead?")
    assert after < floor + 0.05, (
        "far above the floor: something doesn't learn. Run pytest without -x: of the"
        " tests that fail, the last ones say what")


def test_claim_5_greedy_text_is_one_of_the_six_sentences(trained):
    for word in ["", *{sentence.split()[0] for sentence in SENTENCES}]:
        text = generate(word, trained, VOCAB)

        assert text in SENTENCES, (
            "the likeliest text must be a sentence: is the last token looked at, and"
            " does the text end at the delimiter?")
        assert text.startswith(word), "a text must begin with its prompt"
        assert generate(word, trained, VOCAB) == text, "the same must come twice"


def test_claim_6_it_computes_what_pytorchs_own_encoder_computes():
    model = MiniGPT(11, 24, embed_dim=16, num_layers=3, dropout=0.0).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)  # so large that each part matters

    # PyTorch's encoder with a mask, with the same parameters
    layer = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 3, nn.LayerNorm(16), False).double()
    pairs = list(zip(model.norm.parameters(), theirs.norm.parameters()))
    for block, their_layer in zip(model.blocks, theirs.layers):
        attention = block.attention
        first, last = linear_layers(block.feed_forward)
        parts = nn.ModuleList([attention.qkv, attention.projection, first, last,
                               block.norm1, block.norm2])
        pairs += zip(parts.parameters(), their_layer.parameters(), strict=True)
    for ours, copied in pairs:
        copied.data.copy_(ours.data)

    # The same logits, and the same gradients
    ids = torch.arange(24)[None] % 11
    logits, _ = model(ids)
    x = model.token_embedding.weight[ids] + model.position_embedding.weight
    expected = model.lm_head(theirs(x, mask=~PAST))

    assert torch.allclose(logits, expected, rtol=0, atol=1e-10), (
        "the logits differ from those of PyTorch's encoder with the same parameters:"
        " the tests of attention, block and model say where")
    direction = torch.randn_like(logits)
    (logits * direction).sum().backward()
    (expected * direction).sum().backward()
    for ours, copied in pairs:
        assert torch.allclose(ours.grad, copied.grad, rtol=0, atol=1e-8), (
            "a gradient differs from that of PyTorch's encoder")


# ====================== part 2: the parts ========================

# -------------------------------------------- text becomes tokens
def test_vocab_is_the_delimiter_and_then_each_word_once():
    assert VOCAB.tokens == (
        "<|endoftext|> all are attention deep fun is learn learning models need"
        " powerful representations self transformers use you").split()
    assert VOCAB.encode("use all") == [15, 1]
    assert VOCAB.decode(VOCAB.encode(" use \t all ")) == "use all"


def test_vocab_of_characters_keeps_each_blank():
    vocab = Vocab(["to be", "or "], chars=True)

    assert vocab.tokens == [DELIMITER, " ", "b", "e", "o", "r", "t"]
    assert vocab.decode(vocab.encode(" be or  ")) == " be or  "


@pytest.mark.parametrize("text, named", [
    pytest.param("deep zebra is", "'zebra' does not occur", id="an unknown word"),
    pytest.param("Deep", "'Deep'.*case", id="upper case"),
    pytest.param(DELIMITER, "endoftext", id="the delimiter"),
])
def test_vocab_refuses_a_token_that_it_does_not_have(text, named):
    with pytest.raises(InputError, match=named):
        VOCAB.encode(text)


@pytest.mark.parametrize("context", [1, 2, 3, 5, 6, 7])
def test_sequences_predict_each_token_once_from_delimiter_to_delimiter(context):
    pieces = make_sequences(LINES, context)

    assert pieces[0][0] == 0, "a line needs a delimiter before it"
    rebuilt = []
    for piece in pieces:
        assert 2 <= len(piece) <= context + 1, "a piece has at most context + 1 ids"
        if piece[0] == 0:
            rebuilt.append(piece)
        else:
            assert piece[0] == rebuilt[-1][-1], "the pieces of a line must share an id"
            rebuilt[-1] = rebuilt[-1] + piece[1:]
    assert rebuilt == [[0, *ids, 0] for ids in LINES], (
        "a line needs a delimiter before it, and one after it")
    assert count_predictions(pieces) == 30


def test_held_out_lines_and_their_copies_are_not_trained_on():
    lines = [[i % 100] for i in range(150)]  # 100 different lines, half of them twice

    training, held_out = hold_out(lines, fraction=0.062, seed=1)

    drawn = {i for i, in held_out}
    assert len(drawn) == 7, "0.062 of 100 different lines, rounded up"
    assert training == [line for line in lines if line[0] not in drawn]
    assert held_out == [line for line in lines if line[0] in drawn]
    assert hold_out(lines, 0, seed=1) == (lines, [])


def test_held_out_lines_depend_on_the_seed_only():
    lines = [[i] for i in range(1000)]

    _, drawn = hold_out(lines, 0.2, seed=1)
    _, drawn_again = hold_out(lines[::-1], 0.2, seed=1)
    _, drawn_otherwise = hold_out(lines, 0.2, seed=2)

    assert drawn_again == drawn[::-1], "not on the order of the lines"
    assert drawn_otherwise != drawn != lines[:200]


# -------------------------------------------- the mask
def test_mask_forbids_exactly_what_comes_after_a_token():
    mask = causal_mask(12)

    assert mask.shape == (12, 12), "the mask must be (T, T), a row for each token"
    assert mask.dtype == torch.bool, "the mask must hold bools: True is forbidden"
    assert mask[0, -1] or not mask.diagonal(1).any(), (
        "all that comes later is forbidden, and not only the next token")
    assert mask[0, -1] and not mask[-1, 0], (
        "the mask is the wrong way round: True belongs right of the diagonal")
    assert not mask.diagonal().any(), "a token sees itself: the diagonal must be False"
    assert mask.diagonal(1).all(), "a token must not see the next, which it predicts"
    assert mask.equal(~PAST[:12, :12]), "row t must be True in all columns after t"


def test_mask_is_made_on_the_device_that_it_is_given():
    assert causal_mask(3, "meta").is_meta, "the mask must be made on the device"


# -------------------------------------------- attention
def test_attention_weights_are_shares_of_a_whole():
    attention = MaskedSelfAttention(32, 2, dropout=0.5)

    out, weights = attention(torch.randn(3, 24, 32))

    assert out.shape == (3, 24, 32), "the result must be (B, T, C), as x is"
    assert weights.shape == (3, 2, 24, 24), "weights must be (B, H, T, T)"
    assert not weights.isnan().any(), (
        "a row of weights is nan: are scores forbidden by -inf (0 * -inf is nan, and so"
        " is the root of a number below 0), does each token see itself, and is the"
        " softmax over the last axis?")
    assert torch.allclose(weights.sum(dim=-1), torch.ones(3, 2, 24), atol=1e-5), (
        "each row of weights must sum to 1: softmax over the last axis, after the"
        " mask (else divide each row by its sum again), and no dropout in between")


def test_attention_is_paid_to_the_past_and_never_to_the_future():
    attention = MaskedSelfAttention(32, 2, dropout=0.5)

    x = torch.randn(3, 24, 32)
    weights = torch.cat([attention.train()(x)[1], attention.eval()(x)[1]])

    assert (weights[..., PAST] > 0).all(), (
        "a token must look at itself and at all before it: is the mask inverted?")
    assert not (weights[..., ~PAST] > 0).any(), (
        "a token looks at the future: its scores must be -inf before the softmax"
        " (masked_fill returns new scores: are they assigned?)")


def attend(q, k, v):
    """What two heads make of given queries, keys and values (T, C).

    Token t is the one-hot vector t. So the layer that makes q, k and v
    picks its column t, and the given numbers are written there.
    """
    T, C = q.shape
    attention = MaskedSelfAttention(C, 2, dropout=0.0)
    attention.qkv.bias.data.zero_()
    attention.qkv.weight.data[:, :T] = torch.cat([q, k, v], dim=-1).T
    attention.projection.bias.data.zero_()
    attention.projection.weight.data = torch.eye(C)
    out, weights = attention(torch.eye(C)[None, :T])
    return out[0], weights[0]  # (T, C), (H, T, T)


def test_attention_cuts_the_layer_into_queries_keys_and_values():
    q, k, v = torch.randn(3, 4, 32)

    out, _ = attend(q, k, v)

    for name, others in ("queries", q), ("keys", k):
        assert not torch.allclose(out[0], others[0], atol=1e-5), (
            f"{name} are collected instead of values: qkv gives queries, keys and"
            " values, in this order")
    keys_first, _ = attend(k, q, v)
    assert not torch.allclose(out, keys_first, atol=1e-3), (
        "queries and keys do the same: a score is the query of the token that looks,"
        " times the key of the token that is looked at")


def test_attention_heads_collect_means_of_values_and_stand_side_by_side():
    q, k, v = torch.randn(3, 4, 32)

    out, weights = attend(q, k, v)

    assert torch.allclose(out[0], v[0], atol=1e-5), (
        "the first token must collect its own value: are channels split by view and"
        " transpose, and put together by transpose and reshape?")
    assert torch.allclose(out[:, :16], weights[0] @ v[:, :16], atol=1e-5), (
        "head 0 must fill the first half of the channels with weighted means of its"
        " values: are the heads transposed back before the reshape?")
    assert torch.allclose(out[:, 16:], weights[1] @ v[:, 16:], atol=1e-5), (
        "head 1 must fill the second half with weighted means of its own values")


def test_attention_is_large_where_a_key_fits_a_query():
    q, k, v = torch.zeros(3, 4, 32)
    q[2, 16:] = k[1, 16:] = 10.0  # head 1: the key of 1 fits the query of 2

    _, weights = attend(q, k, v)
    _, swapped = attend(k, q, v)

    assert swapped[1, 2, 1] < 0.5, (
        "queries and keys are swapped: qkv gives queries, keys, values, in this order,"
        " and a row belongs to the token that looks: q @ k.transpose(-2, -1)")
    assert weights[:, 2, 1].max() > 0.99, (
        "a score must be query times key, of one head: q @ k.transpose(-2, -1)")
    assert weights[1, 2, 1] > 0.99 and weights[0, 2, 1] < 0.34, (
        "head 0 has the first half of the channels, head 1 the second: heads mix")


def test_attention_scores_are_divided_by_the_root_of_the_head_size():
    q, k, v = torch.zeros(3, 3, 32)
    q[1] = k[0] = 0.5  # 16 channels in a head: 16 * 0.5 * 0.5 / root 16 = 1

    _, weights = attend(q, k, v)

    expected = math.e / (math.e + 1)  # the softmax of 1 and 0
    assert weights[0, 1, 0].item() == pytest.approx(expected, abs=1e-4), (
        "scores must be divided by the square root of head_size (not of C or T)")


def test_attention_lets_queries_and_keys_learn():
    attention = MaskedSelfAttention(32, 2, dropout=0.0)

    out, _ = attention(torch.randn(1, 5, 32))
    out.square().sum().backward()

    names = ["queries", "keys", "values"]
    for name, gradient in zip(names, attention.qkv.weight.grad.chunk(3)):
        assert gradient.norm() > 0, f"{name} don't learn: is something detached?"


def test_attention_happens_on_the_device_of_x():
    attention = MaskedSelfAttention(8, 2, 0.0).to("meta")

    try:
        _, weights = attention(torch.zeros(1, 3, 8, device="meta"))
    except RuntimeError as error:
        pytest.fail(f"is the mask made on the device of x? {error}")

    assert weights.is_meta, "the mask must be made on the device of x"


def test_attention_drops_weights_but_returns_them_whole():
    attention = MaskedSelfAttention(32, 2, dropout=0.5)
    x = torch.randn(1, 24, 32)

    dropped, weights = attention.train()(x)
    whole, whole_weights = attention.eval()(x)

    assert torch.equal(weights, whole_weights), "weights are returned before dropout"
    assert not torch.allclose(dropped, whole), (
        "in training some weights must be dropped before values are collected")
    assert torch.equal(whole, attention(x)[0]), "eval() must turn dropout off"


def test_attention_mixes_what_the_heads_collect():
    attention = MaskedSelfAttention(32, 2, dropout=0.0)
    attention.projection.weight.data.zero_()
    attention.projection.bias.data.fill_(7.0)

    out, _ = attention(torch.randn(1, 5, 32))

    assert (out == 7.0).all(), "the heads' results must go through the projection"


# -------------------------------------------- the block
@pytest.fixture
def block():
    return GPTBlock(embed_dim=32, num_heads=4, dropout=0.0)


@pytest.fixture
def x():
    """Vectors that are not normalized: mean 3, deviation 5."""
    return 3 + 5 * torch.randn(2, 6, 32)


def silence(layer):
    """A linear layer that gives 0, whatever comes in."""
    layer.weight.data.zero_()
    layer.bias.data.zero_()


def linear_layers(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def test_block_gives_x_and_weights_without_touching_x(block, x):
    before = x.clone()

    results = block(x)

    assert isinstance(results, tuple) and len(results) == 2, "return x, weights"
    assert [r.shape for r in results] == [(2, 6, 32), (2, 4, 6, 6)], (
        "a block must return x (B, T, C) and weights (B, H, T, T)")
    assert x.equal(before), "x was changed in place: x = x + ..., and not x += ..."
    assert results[0].equal(block(x)[0]), (
        "two results for one x and a dropout of 0: use the dropout that is given")


def test_block_adds_to_x_instead_of_replacing_it(x):
    block = GPTBlock(embed_dim=32, num_heads=4, dropout=0.7).train()
    silence(block.attention.projection)
    silence(linear_layers(block.feed_forward)[-1])

    out, _ = block(x)

    assert torch.allclose(out, x), (
        "where attention and feed-forward give 0, a block must return x: is a residual"
        " connection (x = x + ...) missing, or does a LayerNorm or dropout change x?")


def test_block_has_a_norm_for_attention_and_another_for_thinking(block, x):
    silence(block.attention.projection)  # only the thinking counts
    before, _ = block(x)

    block.norm1.weight.data *= 2
    after_norm1, _ = block(x)
    block.norm2.weight.data *= 2
    after_norm2, _ = block(x)

    assert torch.allclose(before, after_norm1), "the feed-forward network reads norm2"
    assert not torch.allclose(before, after_norm2), "norm2 must be used"


def test_block_normalizes_what_attention_reads(block, x):
    silence(linear_layers(block.feed_forward)[-1])
    _, weights = block(x)
    _, weights_of_more = block(10 * x)

    assert torch.allclose(weights, weights_of_more, atol=1e-3), (
        "ten times x must get the weights of x: LayerNorm must stand before attention")


def test_block_adds_what_the_feed_forward_network_makes_of_normalized_x(block, x):
    silence(block.attention.projection)

    added, added_to_more = block(x)[0] - x, block(10 * x)[0] - 10 * x

    assert added.abs().max() > 0.1, "what the feed-forward network gives must be added"
    assert torch.allclose(added, added_to_more, atol=1e-3), (
        "ten times x must be thought about like x: a LayerNorm must stand before the"
        " feed-forward network")


def test_block_first_looks_and_then_thinks(block, x):
    looks, thinks = copy.deepcopy(block), copy.deepcopy(block)
    silence(linear_layers(looks.feed_forward)[-1])
    silence(thinks.attention.projection)

    out, _ = block(x)
    seen, _ = looks(x)
    thought, _ = thinks(seen)

    assert not torch.allclose(seen, x), "what attention collects must be added to x"
    assert torch.allclose(out, thought, atol=1e-5), (
        "the feed-forward network must read x with what attention has added")


def test_block_has_a_feed_forward_network_four_times_as_wide(block):
    shapes = [tuple(layer.weight.shape) for layer in linear_layers(block.feed_forward)]

    assert shapes == [(128, 32), (32, 128)], (
        "the feed-forward network must go from C to 4 * C channels and back")


@pytest.mark.parametrize("x, bent", [(-1.0, -0.1587), (0.0, 0.0), (1.0, 0.8413)])
def test_block_has_a_feed_forward_network_that_bends_as_gelu_does(x, bent):
    block = GPTBlock(embed_dim=1, num_heads=1, dropout=0.0)
    first, last = linear_layers(block.feed_forward)
    for layer in first, last:
        silence(layer)
        layer.weight.data[0, 0] = 1.0  # the first of four channels hands x on

    out = block.feed_forward(torch.tensor([[x]])).item()

    assert out == pytest.approx(bent, abs=1e-3), (
        "the feed-forward network needs a GELU between its layers (at -1, a ReLU"
        " gives 0, and no bend gives -1)")


def test_block_drops_in_four_places_while_it_trains(monkeypatch):
    dropped = []
    dropout = F.dropout

    def watched(x, p=0.5, training=True, inplace=False):
        if training:
            dropped.append((p, *x.shape))
            assert x.shape[-1] != 128 or x.min() > -0.2, "drop what the GELU gives"
        return dropout(x, p, training, inplace)

    monkeypatch.setattr(F, "dropout", watched)
    block = GPTBlock(embed_dim=32, num_heads=4, dropout=0.7)

    block.eval()(torch.randn(2, 5, 32))
    assert dropped == [], "eval() must turn dropout off: F.dropout is on by default"
    block.train()(torch.randn(2, 5, 32))
    assert dropped == [
        (0.7, 2, 4, 5, 5),  # attention weights
        (0.7, 2, 5, 32),  # what attention adds
        (0.7, 2, 5, 128),  # inside of the feed-forward network
        (0.7, 2, 5, 32),  # what it adds
    ], "dropout acts on attention weights, on what attention adds, inside of the" \
       " feed-forward network, and on what that adds"


# -------------------------------------------- tokens become predictions
def test_model_has_blocks_of_their_own_that_it_knows_of():
    one, three = MiniGPT(11, 8, num_layers=1), MiniGPT(11, 8, num_layers=3)

    in_a_block = number_of_parameters(one.blocks[0])
    in_all = number_of_parameters(one)

    assert in_a_block == 12 * 32 ** 2 + 13 * 32, "a block has a part too many or few"
    assert in_all > in_a_block, "blocks in a plain list don't learn: use nn.ModuleList"
    assert number_of_parameters(three) == in_all + 2 * in_a_block, (
        "each block must be a new one, with parameters of its own")
    assert in_all - in_a_block == (11 + 8 + 2) * 32 + 33 * 11, (
        "beside the blocks there must be two embeddings, a LayerNorm, and an output"
        " layer with parameters of its own")


def test_model_drops_nothing_outside_of_its_blocks():
    model = MiniGPT(11, context_length=8, num_layers=0, dropout=0.9).train()

    logits, _ = model(torch.arange(8)[None])

    assert torch.equal(logits, model(torch.arange(8)[None])[0]), (
        "dropout belongs into the blocks, and not to embeddings or logits")


def test_model_hears_which_token_it_is_and_where_it_stands():
    model = MiniGPT(11, context_length=8).eval()

    logits = model(torch.tensor([[5, 5, 5], [6, 5, 5]]))[0]

    assert logits.shape == (2, 3, 11), "logits must be (B, T, V)"
    assert not torch.allclose(logits[0, 0], logits[1, 0]), "a token's id must matter"
    assert not torch.allclose(logits[0, 1], logits[0, 2]), (
        "the same token must differ at another place: are positions added?")


def test_model_hands_x_from_block_to_block_the_lowest_first():
    model = MiniGPT(11, context_length=8, num_layers=3).eval()
    ids = torch.arange(8)[None]
    _, before = model(ids)

    silence(model.blocks[1].attention.projection)
    _, after = model(ids)

    assert len(before) == 3, "there must be weights (B, H, T, T) of each block"
    changed = [not torch.allclose(*both) for both in zip(before, after, strict=True)]
    assert changed == [False, False, True], (
        "what block 1 gives must reach block 2, and no other: is x handed on, and are"
        " the weights listed from the lowest block up?")


def test_model_adds_embeddings_and_hands_x_from_block_to_block():
    model = MiniGPT(11, context_length=8, num_layers=3).eval()
    order, read, given = [], [], []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, out, i=i: (
            order.append(i), read.append(args[0]), given.append(out[0])) and None)
    model.norm.register_forward_hook(lambda module, args, out: read.append(args[0]))
    ids = torch.tensor([[5, 3, 5, 9]])  # shorter than the context

    model(ids)

    added = model.token_embedding.weight[ids] + model.position_embedding.weight[:4]
    assert order == [0, 1, 2], "each block must be used once, the lowest first"
    assert torch.allclose(read[0], added), (
        "block 0 must read token + position embeddings, positions counted from 0")
    for one, other in zip(given, read[1:], strict=True):
        assert torch.equal(one, other), "what a block gives, the next must read"


def test_model_normalizes_x_before_it_predicts():
    model = MiniGPT(11, context_length=8, num_layers=1).eval()
    silence(model.blocks[0].attention.projection)
    silence(linear_layers(model.blocks[0].feed_forward)[-1])
    ids = torch.arange(8)[None]
    logits, _ = model(ids)

    model.token_embedding.weight.data *= 10
    model.position_embedding.weight.data *= 10
    logits_of_more, _ = model(ids)

    assert torch.allclose(logits, logits_of_more, atol=1e-3), (
        "ten times x must get the logits of x: LayerNorm must stand before lm_head")


def test_model_gives_logits_and_no_probabilities():
    logits, _ = MiniGPT(11, context_length=8)(torch.arange(8)[None])

    assert logits.min() < 0, "logits can be any number: the softmax belongs to the loss"
    assert (logits.exp().sum(dim=-1) - 1).abs().min() > 0.01, (
        "logits are not normalized: log_softmax belongs to the loss")


def test_model_has_no_parameter_that_does_not_learn():
    model = MiniGPT(V, context_length=6)
    ids = torch.arange(24).view(4, 6) % V  # each token, at some position

    logits, _ = model(ids)
    logits.square().sum().backward()

    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient: is it used?"
        assert parameter.grad.norm() > 0, f"the gradient of {name} is 0"
    for table in model.token_embedding, model.position_embedding:
        assert (table.weight.grad.norm(dim=-1) > 0).all(), (
            "each row of an embedding must learn, also that of the delimiter")


def test_model_makes_its_positions_on_the_device_of_the_ids():
    model = MiniGPT(11, context_length=8).to("meta")
    devices = []
    model.position_embedding.register_forward_pre_hook(
        lambda module, args: devices.append(args[0].device.type))

    model(torch.zeros(1, 3, dtype=torch.long, device="meta"))

    assert set(devices) <= {"meta"}, "positions must be made on the device of ids"


def test_model_refuses_more_tokens_than_its_context_holds():
    with pytest.raises(ValueError, match="9 tokens.*8"):
        MiniGPT(11, context_length=8)(torch.zeros(1, 9, dtype=torch.long))


# -------------------------------------------- inputs and targets
def test_targets_are_the_tokens_after_the_inputs():
    inputs, targets = collate([[0, 5, 3, 9, 0]])

    assert inputs.shape == targets.shape == (1, 4), (
        "inputs and targets must be (B, T): a sequence of 5 has 4 of each (with"
        " pad_sequence, batch_first=True)")
    assert targets[0].tolist() == [5, 3, 9, 0], "a target is the next token: shift once"
    assert inputs[0].tolist() == [0, 5, 3, 9], "inputs are all tokens but the last"


def test_targets_of_padding_are_left_out_of_the_count():
    inputs, targets = collate([[0, 5, 3, 9, 0], [0, 7, 0]])

    assert inputs.shape == targets.shape == (2, 4), "inputs and targets must be (B, T)"
    assert inputs[1, :2].tolist() == [0, 7] and targets[1, :2].tolist() == [7, 0], (
        "padding must come after the tokens of a short sequence, on the right")
    assert targets[1, 2:].tolist() == [-100, -100], (
        "padding counts as a target: it must be -100, which cross_entropy leaves out")
    assert ((0 <= inputs) & (inputs < 10)).all(), (
        "the padding of inputs must be an id of the vocabulary, and not -100")
    assert inputs.dtype == targets.dtype == torch.long, "ids must be torch.long"


# -------------------------------------------- the loss
def loss_of(probabilities, targets):
    """The loss of a model that gives these probabilities (B, T, V)."""
    logits = torch.tensor(probabilities).log() + 3  # no softmax came before
    logits.requires_grad_()
    targets = torch.tensor(targets)
    inputs = torch.full_like(targets, 7)

    def logits_of(ids):
        assert ids.equal(inputs), "the model must be shown the inputs, (B, T)"
        return logits.clone()  # without a gradient, under no_grad

    loss = next_token_loss(Says(logits_of), inputs, targets)
    assert isinstance(loss, torch.Tensor), "the loss must stay a tensor: no item()"
    assert loss.shape == (), "the loss must be one number, the mean"
    assert not loss.isnan(), "the loss is nan: a log of something below 0?"
    return loss


def test_loss_is_0_where_the_model_is_sure_and_right():
    loss = loss_of([[[1e-30, 1.0, 1e-30], [1e-30, 1e-30, 1.0]]], targets=[[1, 2]])

    assert loss < 10, "the logits at t are for the target at t: don't shift them again"
    assert loss < 1e-6, (
        "a sure and right model must have a loss of 0: cross_entropy takes logits,"
        " and has the softmax inside")
    assert loss > -1e-6, "no loss is below 0: nll_loss takes log_softmax, not logits"


def test_loss_is_the_mean_of_minus_ln_p_without_padding():
    loss = loss_of([[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]],
                    [[0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]], targets=[[0, 2], [1, -100]])

    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.2)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-5), (
        "the loss must be the mean of -ln(p) over all targets but padding: is it a sum,"
        " is -100 counted, or are logits (B, T, V) and targets (B, T) laid out in"
        " different orders?")


def test_loss_keeps_its_gradient():
    loss = loss_of([[[0.2, 0.8]]], targets=[[1]])

    assert loss.requires_grad, "nothing can learn: is there an item() or a no_grad?"


def test_loss_is_computed_where_the_model_is():
    model = MiniGPT(11, context_length=8).to("meta")
    devices = []
    model.register_forward_pre_hook(
        lambda module, args: devices.append(args[0].device.type))

    try:
        next_token_loss(model, *collate([[0, 1, 2, 0]]))
    except NotImplementedError:
        pass  # the meta device can't pick by a mask: no mistake
    except RuntimeError as error:
        where = "targets" if devices == ["meta"] else "inputs"
        pytest.fail(f"{where} must be moved to the device of the model: {error}")

    assert devices == ["meta"], "inputs must be moved to the device of the model"


@pytest.mark.parametrize("sequences, batch_size", [
    pytest.param(SEQUENCES, 1, id="one by one"),
    pytest.param(SEQUENCES, 4, id="batches of different size"),
    pytest.param(50 * SEQUENCES, 32, id="many batches"),
])
def test_evaluation_is_a_mean_over_tokens_without_dropout(sequences, batch_size):
    model = MiniGPT(V, context_length=6, dropout=0.5).eval()
    expected = next_token_loss(model, *collate(SEQUENCES)).item()
    batches = []
    model.register_forward_pre_hook(
        lambda module, args: batches.append((len(args[0]), torch.is_grad_enabled())))

    model.train()
    found = evaluate(model, sequences, batch_size)

    assert found == pytest.approx(expected, abs=1e-5), (
        "evaluation must turn dropout off, and weight each batch by its tokens")
    assert max(batches) == (min(batch_size, len(sequences)), False), (
        "at most batch_size sequences at once, and no gradients")
    assert not model.training, "the model must be left in eval mode"


# -------------------------------------------- the entropy floor
def floor_by_prefixes(sequences):
    """The floor by definition: the entropy of what follows each prefix."""
    followed = {}
    for ids in sequences:
        for t in range(1, len(ids)):
            followed.setdefault(tuple(ids[:t]), Counter())[ids[t]] += 1
    nats = [-count * math.log(count / after.total())
            for after in followed.values() for count in after.values()]
    return sum(nats) / sum(after.total() for after in followed.values())


@pytest.mark.parametrize("sequences, why", [
    pytest.param(SEQUENCES, "a sentence costs ln 6: divide by all predicted tokens",
                 id="six sentences"),
    pytest.param(SEQUENCES + SEQUENCES[:2], "count equal sequences together: they are"
                 " likelier", id="copies"),
    pytest.param([[0, 7, 0], [0, 7, 8, 0]], "it is a mean over predicted tokens, and"
                 " the first of a sequence is not predicted", id="lengths"),
    pytest.param(make_sequences(LINES, 3), "compare only sequences of the same first"
                 " id, which is given", id="pieces"),
])
def test_floor_is_the_entropy_of_what_follows_each_prefix(sequences, why):
    floor = entropy_floor(sequences)

    assert floor == pytest.approx(floor_by_prefixes(sequences), abs=1e-9), why


@pytest.mark.parametrize("p, warnings", [
    pytest.param(0.5, [], id="on the floor"),
    pytest.param(0.4, [], id="above the floor"),
    pytest.param(0.501, ["bug?      below the floor"], id="below the floor"),
    pytest.param(0.3, ["note      worse than guessing"], id="worse than guessing"),
    pytest.param(math.nan, ["bug?      no number"], id="nan"),
    pytest.param(0.0, ["note      worse than guessing"], id="infinite"),
])
def test_floor_and_guessing_are_held_against_the_loss(p, warnings, capsys):
    vocab = Vocab(["a", "b"])  # and the delimiter: ln 3 is guessing
    rest = 1 - p if p == p else 0.0
    logits = torch.tensor([[[0.0, p, rest]], [[0.0, rest, p]]]).log()

    # Two sequences that begin alike: ln 2 is the floor
    print_loss("a name", Says(lambda ids: logits), vocab, [[0, 1], [0, 2]])

    loss = torch.tensor(p).log().neg()
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"a name  loss {loss:.4f}, perplexity {loss.exp():#.3g}"
    assert len(others) == len(warnings), "one warning where something is wrong"
    assert all(line.startswith(told) for line, told in zip(others, warnings))


# -------------------------------------------- the loss becomes learning
@pytest.mark.parametrize("sequences, batch_size, epochs", [
    pytest.param(SEQUENCES, 32, 3, id="a step an epoch"),
    pytest.param(4 * SEQUENCES[:1], 2, 2, id="two steps an epoch"),
])
def test_training_takes_steps_of_adam(sequences, batch_size, epochs):
    model = MiniGPT(V, context_length=6, dropout=0.0).eval()
    by_hand = MiniGPT(V, context_length=6, dropout=0.0)
    by_hand.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)

    losses = train(model, sequences, epochs, batch_size, lr=0.01)

    steps = epochs * math.ceil(len(sequences) / batch_size)
    assert len(losses) == steps, "train must take all steps, and return their losses"
    assert isinstance(losses[0], float), "a loss is a number: item() frees its graph"
    for step, loss in enumerate(losses):
        expected = next_token_loss(by_hand, *collate(sequences[:batch_size]))
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert loss == pytest.approx(expected.item(), abs=1e-4), (
            f"loss {step} is wrong: a step is zero_grad, backward, and Adam's step, in"
            " this order, with the rate lr")


def test_training_shows_each_sequence_once_an_epoch_in_a_new_order():
    model = MiniGPT(V, context_length=6).eval()
    batches, dropout_on = [], []

    def look(module, args):
        ids, = args  # (B, 2): the delimiter, then a number
        batches.append(ids[:, 1].tolist())
        dropout_on.append(module.training)

    model.register_forward_pre_hook(look)
    train(model, [[0, number, 0] for number in range(1, 7)], epochs=8, batch_size=4)

    epochs = [one + other for one, other in zip(batches[::2], batches[1::2])]
    assert [len(batch) for batch in batches] == [4, 2] * 8
    assert all(sorted(epoch) == [1, 2, 3, 4, 5, 6] for epoch in epochs)
    assert epochs[0] != epochs[1], "each epoch needs an order of its own: shuffle"
    assert all(dropout_on), (
        "in each step dropout must be on: model.train() (watch() may turn it off)")
    assert not model.training, "the model must be left in eval mode"


@pytest.mark.parametrize("epochs, reports", [
    pytest.param(3, [1, 2, 3], id="three steps"),
    pytest.param(45, [1, *range(4, 45, 4), 45], id="45 steps"),
])
def test_training_tells_how_it_goes(epochs, reports, capsys):
    tenth = max(1, epochs // 10)

    said = iter(range(100))
    losses = train(MiniGPT(V, 6), SEQUENCES, epochs, watch=lambda: f"no. {next(said)}")

    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(reports), "the first step, each tenth, and the last"
    for number, (line, step) in enumerate(zip(printed, reports)):
        latest = losses[:step][-tenth:]
        assert f" {step}/{epochs} " in line, "a line must tell the step"
        assert f" {sum(latest) / len(latest):.4f} " in line, (
            "a line must tell the mean loss of the latest tenth, with four digits")
        assert re.search(r" \d+\.\d s ", line), "a line must tell the seconds"
        assert line.endswith(f"no. {number}"), "a line must end with what watch() says"


def test_training_is_not_changed_by_who_watches():
    def watch():
        evaluate(watched, SEQUENCES)
        return generate("deep", watched, VOCAB, max_new_tokens=3)

    alone, watched = MiniGPT(V, 6, dropout=0.5), MiniGPT(V, 6, dropout=0.5)
    watched.load_state_dict(alone.state_dict())

    torch.manual_seed(1)
    losses = train(alone, SEQUENCES, epochs=20, batch_size=2)
    torch.manual_seed(1)
    watched_losses = train(watched, SEQUENCES, epochs=20, batch_size=2, watch=watch)

    assert watched_losses == losses, (
        "after watch() dropout must be on again, and a greedy text must draw nothing")


# -------------------------------------------- learning becomes text
def scripted(words, context_length=100):
    """A model that says word after word, and notes what it is shown.

    The next word is the likeliest at the last position. At the others it is
    "you". At the end of the script the last word comes again and again.
    """
    words, shown = words.split(), []

    def logits_of(ids):
        assert len(ids) == 1, "the model needs ids of (1, T)"
        assert ids.max() < V, "no token has this id: argmax over the last position only"
        assert len(shown) < 200, "generation never stops: count new tokens"
        word = words[min(len(shown), len(words) - 1)]
        shown.append(VOCAB.decode(ids[0].tolist()))
        model.learns = model.training or torch.is_grad_enabled()

        logits = torch.zeros(1, ids.shape[1], V)
        logits[0, :, VOCAB.tokens.index("you")] = 1.0
        logits[0, -1, VOCAB.tokens.index(word)] = 2.0
        return logits

    model = Says(logits_of, context_length)
    return model, shown


def test_generation_appends_the_likeliest_token_after_the_last():
    model, shown = scripted("models use attention")

    text = generate("deep", model, VOCAB, max_new_tokens=3)

    first, *others = text.split()
    assert first == "deep", "a text begins with its prompt, and not with a delimiter"
    assert others[:3] == "models use attention".split(), (
        "the next token must be the likeliest by the logits at the last position")
    assert len(others) == 3, "a text has its prompt and max_new_tokens more"
    assert len(shown) == 3, "the model must be asked max_new_tokens times"
    assert not model.learns, "a text needs no dropout and no gradients"
    assert generate("deep", model, VOCAB, max_new_tokens=0) == "deep"


def test_generation_stops_at_the_delimiter():
    model, shown = scripted("learning <|endoftext|> fun fun")

    text = generate("deep", model, VOCAB, max_new_tokens=4)

    assert text == "deep learning", (
        "the text must end where the model says <|endoftext|>, which is no part of it")
    assert len(shown) == 2, "generation must stop at <|endoftext|>"
    model, _ = scripted("<|endoftext|>")
    assert generate("deep", model, VOCAB, 4, temperature=0.01) == "deep", (
        "a drawn text must end there, too")


def test_generation_shows_the_model_all_that_fits_into_its_context():
    model, shown = scripted("is all you need", context_length=3)

    generate("use", model, VOCAB, max_new_tokens=4)

    assert shown[:2] == [f"{DELIMITER} use", f"{DELIMITER} use is"], (
        "the model must be shown all tokens, as long as they fit into its context")
    assert shown[2:] == ["use is all", "is all you"], (
        "the model must be shown the last context_length tokens, and not the first")


def test_generation_begins_with_nothing_and_goes_on_as_the_context_holds():
    model, shown = scripted("fun", context_length=7)

    assert generate("", model, VOCAB).split() == 7 * ["fun"]
    assert shown[0] == DELIMITER


def test_generation_shows_ids_on_the_device_of_the_model():
    model = MiniGPT(V, context_length=6).to("meta")
    devices = []
    model.register_forward_pre_hook(
        lambda module, args: devices.append(args[0].device.type))

    with pytest.raises((RuntimeError, NotImplementedError)):
        generate("deep", model, VOCAB, 1)  # a meta tensor has no numbers

    assert devices == ["meta"], "ids must be made on the device of the model"


FOUR = [0.15, 0.5, 0.05, 0.3]  # the probabilities of four tokens


@pytest.mark.parametrize("options, expected", [
    pytest.param({"temperature": 1.0}, FOUR, id="temperature 1"),
    pytest.param({"temperature": 0.4}, [0.04, 0.75, 0, 0.21], id="temperature 0.4"),
    pytest.param({"temperature": 1.0, "top_k": 2}, [0, 0.625, 0, 0.375], id="top_k"),
    pytest.param({"temperature": 1.0, "top_p": 0.6}, [0, 0.625, 0, 0.375], id="top_p"),
    pytest.param({"temperature": 1e-6}, [0, 1, 0, 0], id="near 0 it is greedy"),
])
def test_generation_above_temperature_0_draws(options, expected):
    def logits_of(ids):
        logits = torch.full((1, ids.shape[1], V), -50.0)
        logits[0, -1, 1:5] = torch.tensor(FOUR).log() + 2
        return logits

    texts = Counter(
        generate("use", Says(logits_of), VOCAB, 1, **options) for _ in range(400))

    drawn = [texts[f"use {word}"] / 400 for word in VOCAB.tokens[1:5]]
    assert sum(drawn) == pytest.approx(1), (
        "an unlikely token was drawn: sampling_probabilities takes the last logits")
    assert drawn == pytest.approx(expected, abs=0.1), (
        "the next token must be drawn from what sampling_probabilities gives, which"
        " needs temperature, top_k and top_p")


@pytest.mark.parametrize("options", [
    pytest.param({"top_k": 5}, id="greedy top_k"),
    pytest.param({"top_p": 0.9}, id="greedy top_p"),
    pytest.param({"temperature": -1.0}, id="temperature below 0"),
])
def test_generation_refuses_what_makes_no_sense(options):
    model, _ = scripted("fun")

    with pytest.raises(InputError):
        generate("deep", model, VOCAB, **options)


def test_next_tokens_are_those_of_the_last_logits_the_likeliest_first():
    model = MiniGPT(V, context_length=6, dropout=0.5).eval()
    text = "deep learning is fun deep learning is fun deep learning is"
    logits, _ = model(torch.tensor([VOCAB.encode(text)[-6:]]))
    expected = logits[0, -1].softmax(dim=-1).tolist()

    pairs = next_tokens(text, model.train(), VOCAB, count=V)

    found = [p for _, p in pairs]
    assert dict(pairs) == pytest.approx(dict(zip(VOCAB.tokens, expected)), abs=1e-5)
    assert found == sorted(found, reverse=True), "the likeliest comes first"
    assert isinstance(pairs[0][1], float)
    assert len(next_tokens("", model, VOCAB)) == 3


# -------------------------------------------- sampling
def sampled(factor=1.0, **options):
    """What becomes of the four, as a list; their logits times a factor."""
    logits = factor * torch.tensor(FOUR).log() + 2
    probabilities = sampling_probabilities(logits, **options)
    assert probabilities.shape == (4,), "probabilities must be (V,), one for each token"
    assert probabilities.isfinite().all(), (
        "a probability is nan: is no token left (at least one must be), or is -inf put"
        " into probabilities, where 0 belongs?")
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5), (
        "probabilities must sum to 1: softmax, and divide again by what is left of it"
        " after top_k and top_p")
    return probabilities.tolist()


def kept(probabilities):
    return {i for i, p in enumerate(probabilities) if p > 0}


def test_sampling_gives_each_token_its_probability():
    assert kept(sampled()) == {0, 1, 2, 3}, (
        "by default all are kept: top_p asks what the tokens before one have together,"
        " and not what they have with it")
    assert sampled() == pytest.approx(FOUR, abs=1e-5), (
        "each token must have its probability of the softmax, at its own place")


def test_sampling_leaves_the_logits_as_they_were():
    logits = torch.tensor(FOUR).log()

    sampling_probabilities(logits, 2.0, top_k=2, top_p=0.5)

    assert logits.equal(torch.tensor(FOUR).log()), "the logits were changed in place"


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_sampling_divides_the_logits_by_the_temperature(temperature):
    expected = (torch.tensor(FOUR).log() / temperature).softmax(dim=-1).tolist()

    assert sampled(temperature=temperature) == pytest.approx(expected, abs=1e-5), (
        "logits must be divided by the temperature: below 1 the likely get likelier")


def test_sampling_overflows_at_no_temperature():
    assert sampled(1000, temperature=1e-6) == [0, 1, 0, 0]
    assert sampled(1000, temperature=1e30) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("k, those", [
    pytest.param(1, {1}, id="1"),
    pytest.param(2, {1, 3}, id="2"),
    pytest.param(3, {0, 1, 3}, id="3"),
    pytest.param(9, {0, 1, 2, 3}, id="more than there are"),
])
def test_sampling_with_top_k_keeps_the_k_likeliest(k, those):
    found = kept(sampled(top_k=k))

    assert found == those, (
        f"top_k={k} must keep the {k} likeliest, or all if there are fewer, each at its"
        " own place")


@pytest.mark.parametrize("p, those", [
    pytest.param(1e-6, {1}, id="almost 0"),
    pytest.param(0.49, {1}, id="less than the first"),
    pytest.param(0.51, {1, 3}, id="more than the first"),
    pytest.param(0.79, {1, 3}, id="less than two"),
    pytest.param(0.81, {0, 1, 3}, id="more than two"),
    pytest.param(0.96, {0, 1, 2, 3}, id="more than three"),
])
def test_sampling_with_top_p_keeps_the_fewest_that_reach_p(p, those):
    found = kept(sampled(top_p=p))

    assert found == those, (
        f"top_p={p} must keep the fewest of the likeliest that together reach it, the"
        " one that reaches it included")


def test_sampling_with_top_p_needs_no_more_where_p_is_reached_exactly():
    probabilities = sampling_probabilities(torch.zeros(2), top_p=0.5)

    assert sorted(probabilities.tolist()) == [0, 1], "one token of 0.5 reaches 0.5"


def test_sampling_applies_temperature_then_top_k_then_top_p():
    assert kept(sampled(top_p=0.8, temperature=0.25)) == {1}, (
        "the temperature comes before top_p")
    assert kept(sampled(top_p=0.6, top_k=2)) == {1}, (
        "top_p must look at what top_k has left: 0.5 of 0.8 is more than 0.6")
    assert sampled(top_p=0.8, top_k=3) == pytest.approx([0, 0.625, 0, 0.375]), (
        "the tokens that are kept must keep their proportions")


@pytest.mark.parametrize("options", [
    pytest.param({"temperature": 0.0}, id="temperature 0"),
    pytest.param({"temperature": -1.0}, id="temperature below 0"),
    pytest.param({"temperature": math.nan}, id="temperature nan"),
    pytest.param({"top_k": 0}, id="top_k 0"),
    pytest.param({"top_p": 0.0}, id="top_p 0"),
    pytest.param({"top_p": 1.5}, id="top_p 1.5"),
])
def test_sampling_refuses_what_is_out_of_range(options):
    with pytest.raises(InputError):
        sampling_probabilities(torch.tensor(FOUR).log(), **options)



# -------------------------------------------- learning becomes a picture
def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def cells(ax):
    """The numbers behind the colours, masked where a panel is blank."""
    values = ax.collections[0].get_array()
    return values.reshape(math.isqrt(values.size), -1)


@pytest.mark.parametrize("token, shown", [
    pytest.param(" ", "␣", id="a blank"),
    pytest.param("\t", "⇥", id="a tab"),
    pytest.param("\n", "⏎", id="a line break"),
    pytest.param(3, "3", id="a number"),
    pytest.param("x" * 16, "x" * 16, id="16 letters"),
    pytest.param("x" * 17, "x" * 15 + "…", id="17 letters"),
])
def test_picture_has_short_labels_whose_blanks_can_be_seen(token, shown):
    assert label(token) == shown


def test_picture_has_a_panel_per_head_with_a_cell_per_pair_of_words():
    weights = torch.rand(2, 2, 3, 4, 4, requires_grad=True)  # (blocks, B, H, T, T)
    weights = weights * PAST[:4, :4]

    plot_attention(list(weights), layer=1, tokens=["a", "$^$", " ", "x" * 20])

    plt.savefig("words.png")  # a $ starts no formula
    *panels, scale = plt.gcf().axes
    assert [ax.get_title() for ax in panels] == [f"block 1, head {h}" for h in range(3)]
    for head, ax in enumerate(panels):
        drawn = torch.tensor(cells(ax).filled(0.0)).float()
        assert torch.allclose(drawn, weights[1, 0, head]), "block 1, the first of B"
        assert cells(ax).mask.tolist() == (~PAST[:4, :4]).tolist(), "blank future"
        assert [text.get_text() for text in ax.texts] == [
            f"{weight:.2f}" for weight in drawn[PAST[:4, :4]]]
        assert ax.collections[0].get_clim() == (0, 1)
        assert ax.yaxis_inverted() and not ax.xaxis_inverted()
        assert labels(ax.xaxis) == ["a", r"\$^\$", "␣", "x" * 15 + "…"]
        assert list(ax.get_xticks()) == list(ax.get_yticks()) == [0.5, 1.5, 2.5, 3.5]
    assert labels(panels[0].yaxis) == labels(panels[0].xaxis)
    assert scale.get_ylabel() == "attention weight"
    assert plt.gcf().get_supylabel() == "this token ..."
    assert plt.gcf().get_supxlabel() == "... attends to this token"


def test_picture_by_default_is_the_first_block_with_numbers_in_any_style():
    mini_gpt.sns.set_theme()  # a grid on a dark ground
    weights = torch.ones(1, 1, 2, 2).tril().bfloat16()

    plot_attention([weights, 0 * weights])

    mini_gpt.sns.reset_orig()
    ax, _ = plt.gcf().axes
    assert ax.get_title() == "block 0, head 0" and cells(ax)[1, 0] == 1
    assert labels(ax.xaxis) == ["0", "1"]
    assert ax.get_facecolor() == (1, 1, 1, 1), "the blank future must be white"


def test_picture_of_many_heads_has_four_in_a_row():
    plot_attention([torch.ones(1, 6, 2, 2).tril()])

    panels = plt.gcf().axes[:6]
    places = [ax.get_subplotspec() for ax in panels]
    assert [place.rowspan.start for place in places] == [0, 0, 0, 0, 1, 1]
    assert [place.colspan.start for place in places] == [0, 1, 2, 3, 0, 1]
    named = [ax.yaxis.get_tick_params()["labelleft"] for ax in panels]
    assert named == [True, False, False, False, True, False]


def test_picture_of_many_tokens_has_40_labels_and_shows_any_look_ahead():
    weights = torch.ones(1, 2, 200, 200).tril()
    weights[0, 1, 3, 7] = 1.0  # the future, as a head sees it that has no mask
    weights[0, 1, 7, 3] = 0.0  # the past may get nothing, and is no future

    plot_attention([weights])

    honest, leak, _ = plt.gcf().axes
    assert not cells(leak).mask[3, 7] and not cells(leak).mask[7, 3]
    assert cells(leak).mask.sum() == 100 * 199 - 1
    assert cells(honest).mask[3, 7] and cells(honest).mask.sum() == 100 * 199
    assert labels(honest.xaxis)[:6] == ["0", "", "", "", "", "5"]
    assert len(list(filter(None, labels(honest.yaxis)))) == 40
    assert not honest.texts, "numbers would not fit into 200 columns"
    assert max(plt.gcf().get_size_inches()) < 15


@pytest.mark.parametrize("weights, tokens, named", [
    pytest.param([], None, "without blocks", id="no block"),
    pytest.param([torch.ones(1, 1, 4, 4)], "abc", "3 tokens.*4 rows", id="3 words"),
])
def test_picture_is_refused_where_there_is_nothing_to_draw(weights, tokens, named):
    with pytest.raises(InputError, match=named):
        plot_attention(weights, tokens=tokens)


# ====================== part 3: the whole story ==================
def without_time(printed):
    return re.sub(r" +\d+\.\d s", "", printed)


def test_default_run_tells_its_story(trained, capsys):
    text = generate("deep", trained, VOCAB)
    loss = evaluate(trained, SEQUENCES)
    pairs = next_tokens("deep", trained, VOCAB)

    model, vocab, tokens, attention_weights = main()

    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "data      30 tokens to predict, vocabulary of 17",
        "floor     0.3584 nats/token; guessing costs 2.8332",
        "model     26,769 parameters"]
    assert [line.split()[:2] for line in printed[3:14]] == [
        ["step", f"{step}/300"] for step in [1, *range(30, 301, 30)]]
    assert printed[13].endswith(f" s  {text}")
    assert printed[14:] == [
        f"training  loss {loss:.4f}, perplexity {math.exp(loss):#.3g}",
        "next      " + ", ".join(f"{token} {p:.2f}" for token, p in pairs),
        f"text      {text}",
        "picture   attention.png"]
    assert same_parameters(model, trained) and vocab.tokens == VOCAB.tokens
    assert generate("deep") == text, "without a model, that of the last run speaks"
    assert tokens == [DELIMITER, *text.split()]
    T = len(tokens)
    assert [weights.shape for weights in attention_weights] == 2 * [(1, 4, T, T)]
    assert labels(plt.gcf().axes[0].xaxis) == tokens
    assert plt.gcf().axes[0].get_title() == "block 0, head 0"
    assert Path("attention.png").read_bytes().startswith(b"\x89PNG")


def test_run_makes_and_trains_its_model_as_it_is_told(capsys):
    sequences = make_sequences(LINES, context_length=5)
    torch.manual_seed(11)
    by_hand = MiniGPT(V, 5, embed_dim=30, num_heads=5, num_layers=3, dropout=0.15)
    torch.manual_seed(11)
    train(by_hand, sequences, epochs=3, batch_size=2, lr=0.004)
    capsys.readouterr()

    model, *_ = run(context=5, embed_dim=30, heads=5, layers=3, dropout=0.15, epochs=3,
                    batch_size=2, lr=0.004, seed=11, temperature=1.0)

    assert same_parameters(model, by_hand)
    assert "\ncut       6 lines into 7 pieces, since the context holds 5 tokens\n" in (
        capsys.readouterr().out)


def test_run_generates_as_it_is_told(capsys):
    options = {"temperature": 0.9, "top_k": 7, "top_p": 0.85}
    model, vocab, tokens, attention_weights = run(
        prompt="deep learning", max_new_tokens=5, samples=3, epochs=1, **options)

    printed = capsys.readouterr().out
    texts = re.findall(r"\ntext      (.*)", printed)
    for told in re.findall(r"step .* s  (.*)", printed):
        assert len(told.split()) <= 2 + 5, "a report writes no more than the end does"
    torch.manual_seed(mini_gpt.SEED)
    run(epochs=1)  # as many random numbers
    again = [generate("deep learning", model, vocab, 5, **options) for _ in range(3)]
    assert texts == again
    assert tokens == [DELIMITER, *texts[0].split()][-6:], "the first text is drawn"
    _, expected = model(torch.tensor([[vocab.tokens.index(token) for token in tokens]]))
    assert torch.allclose(attention_weights[1], expected[1])
    assert not attention_weights[0].requires_grad


def test_run_takes_an_empty_prompt_and_a_device_as_they_are(capsys):
    model, vocab, *_ = run(prompt="", epochs=1)

    (token, p), *_ = next_tokens("", model, vocab)
    assert f"\nnext      {token} {p:.2f}, " in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="nowhere"):
        run(device="nowhere")


def test_run_of_characters_writes_to_the_end_of_a_line(capsys):
    _, _, tokens, _ = run(chars=True)

    text = re.search(r"\ntext      (.*)\n", capsys.readouterr().out)[1]
    assert text in SENTENCES and tokens == [DELIMITER, *text]


def test_run_keeps_held_out_lines_for_its_reports(capsys):
    training, held_out = hold_out(LINES, 0.5, seed=7)
    floor = entropy_floor(make_sequences(training, 6))

    model, vocab, *_ = run(holdout=0.5, seed=7, epochs=20, batch_size=1)

    printed = capsys.readouterr().out
    nats = evaluate(model, make_sequences(held_out, 6))
    assert len(vocab.tokens) == V, "the vocabulary has the words of held-out lines, too"
    assert model.context_length == 6, "the context holds the longest of all lines"
    assert f"\nfloor     {floor:.4f} " in printed
    assert f" s  held-out {nats:.4f}  deep" in printed, "of the last report"
    assert f"\nheld-out  loss {nats:.4f}, perplexity " in printed
    assert printed.count("held-out") == 11 + 1
    assert printed.count("/60  loss") == 11, "20 epochs of the 3 other lines"


def test_run_shows_the_beginning_of_its_text_in_small_batches(monkeypatch, capsys):
    sizes = []
    forward = MiniGPT.forward

    def watched(model, ids):
        sizes.append(len(ids))
        return forward(model, ids)

    monkeypatch.setattr(MiniGPT, "forward", watched)
    run(9 * SENTENCES, chars=True, epochs=1, batch_size=2, holdout=0.3)

    assert max(sizes) == 2, "evaluation has the batch size of the run, too"
    shown = re.findall(r"step .*held-out \S+  (.*)\n", capsys.readouterr().out)
    assert shown and max(map(len, shown)) <= 12, "twelve tokens fit on a line"


def test_the_model_of_the_last_run_speaks_with_its_own_vocabulary():
    old, old_vocab, *_ = run(epochs=1)
    copier, copier_vocab, *_ = run("abc:abc\n\ncab:cab", chars=True, epochs=2, heads=1)

    assert copier_vocab.tokens == [DELIMITER, *":abc"]
    assert generate("abc") == generate("abc", copier, copier_vocab)
    assert generate("deep", old, old_vocab).startswith("deep"), "the model passed"
    for passed in [old], [None, old_vocab]:
        with pytest.raises(InputError, match="pass both"):
            generate("deep", *passed)


@pytest.mark.parametrize("sentences", [
    pytest.param(["red cats run", "red dogs sit"], id="a list"),
    pytest.param("\nred cats run\n\nred dogs sit\n", id="one text"),
])
def test_sentences_can_be_replaced_in_a_later_cell(sentences, monkeypatch, capsys):
    monkeypatch.setattr(mini_gpt, "SENTENCES", sentences)

    _, vocab, *_ = run()

    printed = capsys.readouterr().out
    assert vocab.tokens == [DELIMITER, "cats", "dogs", "red", "run", "sit"]
    assert "data      8 tokens" in printed and "\ntext      red " in printed


def test_ctrl_c_ends_the_training_and_keeps_what_was_learned(monkeypatch, capsys):
    def interrupted(model, sequences, *args):
        train(model, sequences, epochs=3)
        raise KeyboardInterrupt

    three_epochs, *_ = run(epochs=3)
    monkeypatch.setattr(mini_gpt, "train", interrupted)

    try:
        model, *_ = run(epochs=10)
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C must end the training, and not the run")

    assert same_parameters(model, three_epochs)
    assert re.search(r"\nstopped .*\ntraining  loss", capsys.readouterr().out)


# -------------------------------------------- the command line
def test_own_text_is_read_line_by_line(capsys):
    text = "\ufeffgrüß dich\r\n\r\n \f\r\n\tdich\u2028auch \r\n"
    Path("mine.txt").write_bytes(text.encode("utf-8"))

    model, words, *_ = main(["--data", "mine.txt", "--epochs", "1"])
    _, letters, *_ = main("--data mine.txt --epochs 1 --chars --prompt ich".split())

    printed = capsys.readouterr().out
    (first, p), *_ = next_tokens("", model, words)
    assert f"\nnext      {first} {p:.2f}, " in printed, "by default a line is begun"
    assert words.tokens == [DELIMITER, "auch", "dich", "grüß"]
    assert letters.tokens == [DELIMITER, *"\t acdghirußü\u2028"]
    assert "data      6 tokens" in printed and "data      22 tokens" in printed
    assert "\ntext      ich" in printed


def test_options_are_the_arguments_of_run_and_help_shows_its_defaults(
        monkeypatch, capsys):
    defaults = run.__kwdefaults__
    passed = {}

    def run_nothing(lines, **options):
        passed.update(options)
        return None, None, [], []

    monkeypatch.setattr(mini_gpt, "run", run_nothing)
    for name, default in defaults.items():
        option = "--" + name.replace("_", "-")
        main([option] if default is False else [option, "1"])
    main(["--prompt=-x"])

    assert passed.pop("prompt") == "-x" and passed.pop("device") == "1"
    assert passed == {name: 1 for name in defaults if name not in ("prompt", "device")}
    whole = [name for name, number in passed.items() if type(number) is int]
    assert whole == ("context embed_dim heads layers epochs batch_size seed"
                     " max_new_tokens top_k samples").split()

    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # without colours
    printed = " ".join(printed.split())
    assert stop.value.code == 0 and "Learn lines of text" in printed
    for name, default in defaults.items():
        shown = re.search(rf"--{name.replace('_', '-')}\b.*?\((.*?)\)", printed)[1]
        if isinstance(default, (int, float)) and default is not False:
            assert float(shown) == default, f"help shows another {name}"


@pytest.mark.parametrize("options, named", [
    pytest.param("--epochs many", "invalid int value: 'many'", id="no number"),
    pytest.param("--epoches 3", "unrecognized arguments", id="no option"),
    pytest.param("--epochs 0", "epochs must be from 1", id="out of range"),
    pytest.param("--heads 5", "32 channels don't split into 5 heads", id="five heads"),
    pytest.param("--prompt zebra", "'zebra' does not occur", id="an unknown word"),
    pytest.param("--top-k 3", "need a temperature above 0", id="greedy top-k"),
    pytest.param("--holdout 1", "none left", id="all held out"),
    pytest.param("--data no.txt", "no.txt", id="no file"),
    pytest.param("--data=", "--data", id="no name"),
    pytest.param("--data latin.txt", "utf-8", id="not UTF-8"),
    pytest.param("--data empty.txt", "none left", id="an empty file"),
])
def test_a_usual_mistake_is_told_in_one_line_before_training(options, named, capsys):
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("empty.txt").write_bytes(b" \n")

    with pytest.raises(SystemExit) as stop:
        main(options.split())

    out, err = capsys.readouterr()
    usage, line = err.splitlines()
    assert usage.startswith("usage: mini_gpt.py ") and len(usage) < 80
    assert line.startswith("mini_gpt.py: error: ") and named in line
    assert stop.value.code == 2 and out == ""


def test_a_mistake_in_a_pasted_file_can_be_shown_by_colab(monkeypatch):
    monkeypatch.setattr(mini_gpt, "SENTENCES", [])

    with pytest.raises(SystemExit) as stop:
        main()

    assert stop.value.__context__ is None, "IPython 7 fails on an exit in an except"


@pytest.mark.parametrize("options", [
    {"context": 0}, {"embed_dim": 0}, {"heads": 0}, {"batch_size": 0}, {"samples": 0},
    {"max_new_tokens": -3}, {"epochs": -1}, {"layers": -1}, {"temperature": -0.1},
    {"temperature": math.nan}, {"holdout": 1.1}, {"dropout": -0.1}, {"lr": 10},
    {"lr": math.nan},
    {"temperature": 1.0, "top_p": 0.0},
], ids=str)
def test_numbers_out_of_range_are_refused_in_a_notebook_too(options, capsys):
    with pytest.raises(InputError, match=list(options)[-1]):
        run(**options)

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [
    pytest.param({"dropout": 1}, id="all dropped"),
    pytest.param({"lr": 0}, id="no step"),
    pytest.param({"holdout": 0.8}, id="one line left"),
    pytest.param({"batch_size": 10 ** 9}, id="large batches"),
    pytest.param({"heads": 1, "layers": 1, "embed_dim": 1}, id="small"),
    pytest.param({"context": 1}, id="short-sighted"),
    pytest.param({"temperature": 1e-6, "top_p": 1e-6, "top_k": 1000}, id="cold"),
])
def test_options_at_the_edge_work(options):
    model, *_ = run(epochs=2, **options)

    assert model.context_length == options.get("context", 6)


def test_without_blocks_nothing_is_drawn_and_the_run_says_so(capsys):
    _, _, tokens, attention_weights = main(["--layers", "0", "--epochs", "2"])

    assert attention_weights == [] and len(tokens) <= 6
    assert "picture   none: " in capsys.readouterr().out
    assert not Path("attention.png").exists()


@pytest.mark.parametrize("error", [OSError, ValueError, IndexError, KeyboardInterrupt])
def test_a_bug_in_the_code_keeps_its_traceback(error, monkeypatch):
    def forward(model, ids):
        raise error("a typo")

    monkeypatch.setattr(MiniGPT, "forward", forward)

    with pytest.raises(error, match="a typo"):
        main()


# -------------------------------------------- scripts and notebooks
def paste(source, **names):
    """The names that are there after the source has run in a cell."""
    exec(source, names)
    return names


def test_as_a_script_it_takes_options_and_leaves_its_model(monkeypatch, capsys):
    options = "--layers 1 --epochs 20 --holdout 0.5 --prompt is".split()
    monkeypatch.setattr(sys, "argv", ["mini_gpt.py", *options])

    names = runpy.run_path(str(SCRIPT), run_name="__main__")  # as python -i, or %run
    printed = capsys.readouterr().out
    main(options)

    assert without_time(printed) == without_time(capsys.readouterr().out)
    assert names["generate"]("deep") == generate("deep", names["model"], names["vocab"])


@pytest.mark.parametrize("make_stream, shown", [
    pytest.param(lambda: io.TextIOWrapper(io.BytesIO(), "ascii"), "na?ve", id="ascii"),
    pytest.param(io.StringIO, "naïve", id="no encoding"),
])
def test_a_letter_that_a_script_cannot_show_is_a_question_mark(
        make_stream, shown, monkeypatch):
    Path("mine.txt").write_text("naïve", encoding="utf-8")
    stream = make_stream()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", "mini_gpt.py --data mine.txt --epochs 1 --layers 0"
                                     " --prompt naïve".split())

    runpy.run_path(str(SCRIPT), run_name="__main__")

    stream.seek(0)
    assert f"text      {shown}" in stream.read()


@pytest.mark.parametrize("file", [
    pytest.param({}, id="a cell"),
    pytest.param({"__file__": "/tmp/ipykernel_1/2.py"}, id="a cell with a file"),
])
def test_in_a_notebook_it_ignores_the_kernels_options(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    source = SOURCE.replace("EPOCHS = 300", "EPOCHS = 2")
    threads = torch.get_num_threads()

    paste(source, __name__="__main__", **file)
    names = paste(source, __name__="__main__", **file)  # a second time

    assert " 2/2 " in capsys.readouterr().out
    assert names["generate"]("deep") == generate("deep", names["model"], names["vocab"])
    assert len(names["tokens"]) > 1 and len(names["attention_weights"]) == 2
    assert torch.get_num_threads() == threads
    tokens, _ = names["attention_of"]("deep learning", names["model"], names["vocab"])
    assert tokens == [DELIMITER, "deep", "learning"]


# ====================== the lab ==================================
PARTS = {
    "mask": "causal_mask", "attention": "MaskedSelfAttention.forward",
    "block": "GPTBlock.forward", "model": "MiniGPT.forward", "targets": "collate",
    "loss": "next_token_loss", "floor": "entropy_floor", "training": "train",
    "generation": "generate", "sampling": "sampling_probabilities"}


def blank(source, part):
    """The source without the code of a part: its labels and shapes stay."""
    function = ast.parse(source)
    for name in PARTS[part].split("."):
        function = next(x for x in function.body if getattr(x, "name", None) == name)
    docstring = function.body[0]
    lines = source.splitlines()

    # Of each line of code, keep the indent, and a comment that is a shape
    scaffold = []
    for line in lines[docstring.end_lineno:function.end_lineno]:
        indent, code, comment = re.fullmatch(r"( *)([^#]*)(.*)", line).groups()
        if not code or re.match(r"# (each )?\([A-Z]", comment):
            scaffold.append(indent + comment)
    indent = " " * docstring.col_offset
    task = f"{PARTS[part]} is yours to write"
    scaffold.append(f'{indent}raise NotImplementedError("{task}")')

    lines[docstring.end_lineno:function.end_lineno] = scaffold
    return "\n".join(lines) + "\n"


def read_bugs(readme):
    """The bugs of the bug hunt: pairs of a diff and what is told of it."""
    return re.findall(r"```diff\n([^`]+)```\n\n(Loss .*)", readme)


def apply_diff(source, diff):
    """The source, with the lines after "+" instead of those after "-"."""
    for old, new in re.findall(r"(?m)((?:^-.*\n)+)((?:^\+.*\n)*)", diff):
        old, new = (re.sub("(?m)^[-+] ?", "", lines) for lines in (old, new))
        if source.count(old) != 1:
            raise ValueError(f"mini_gpt.py must have these lines once:\n{old}")
        source = source.replace(old, new)
    return source


def hide_bug(source, number):
    """The source with a bug, without comments in its code; the answer."""
    readme = SCRIPT.with_name("README.md").read_text(encoding="utf-8")
    diff, told = random.Random(number).choice(read_bugs(readme))
    source = apply_diff(source, diff)
    source = re.sub(r"(?m)^ +#.*\n", "", source)  # a label without its line tells
    source = re.sub(r"(?m)^( .*?)  #.*", r"\1", source)
    return source, f"{diff}\n{told}"


def lab(argv=None):
    """Set an exercise or hide a bug: lab/mini_gpt.py, and its judge."""
    parser = argparse.ArgumentParser(
        "test_mini_gpt.py", usage="test_mini_gpt.py --blank PART, or --bug N [--tell]",
        description=lab.__doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--blank", choices=PARTS, help="a part to write anew")
    task.add_argument("--bug", type=int, metavar="N", help="a bug, by any number")
    parser.add_argument("--tell", action="store_true", help="only tell which bug it is")
    options = parser.parse_args(argv)
    if options.tell and options.blank:
        parser.error("--tell needs --bug N")

    # Make the file, and say what judges it
    judge = "pytest lab/judge.py -x --tb=short"
    if options.blank:
        source = blank(SOURCE, options.blank)
        judge += f" -k test_{options.blank}_"
    else:
        try:
            source, answer = hide_bug(SOURCE, options.bug)
        except OSError:
            parser.error("the bugs are in README.md: put it beside this file")
        if options.tell:
            print(answer)
            return

    # Write it, but never over somebody's work
    folder = Path("lab")
    if folder.exists():
        parser.error("there is a folder lab: move it away first")
    folder.mkdir()
    folder.joinpath("mini_gpt.py").write_text(source, encoding="utf-8")
    shutil.copy(__file__, folder / "judge.py")
    print(judge)


if __name__ == "__main__":
    lab()
