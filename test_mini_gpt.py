"""What Mini GPT claims, checked. Run `pytest` beside mini_gpt.py; the order is that of the file."""

import itertools
import math
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import mini_gpt
from mini_gpt import (DELIMITER, SENTENCES, GPTBlock, MaskedSelfAttention, MiniGPT, MiniLSTM, Vocab,
                      causal_mask, collate, count_predictions, entropy_floor, evaluate, generate,
                      main, make_sequences, next_token_loss, plot_attention, report,
                      sampling_probabilities, train)

plt.switch_backend("Agg")  # no windows, also where there is a screen
SCRIPT = Path(mini_gpt.__file__).resolve()
README = SCRIPT.with_name("README.md").read_text(encoding="utf-8")
OPTIONS = "--layers 1 --epochs 20 --holdout 0.5 --temperature 1 --samples 5".split()
VOCAB = Vocab(SENTENCES)
SEQUENCES = make_sequences([VOCAB.encode(line) for line in SENTENCES], context_length=6)


@pytest.fixture(autouse=True)
def tidy(tmp_path, monkeypatch):
    """Each test in an empty folder, with the same random numbers; no figure outlives it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mini_gpt, "plot_attention", lambda *args, **kwargs: plt.figure())  # quicker
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
    return model.eval()


def small_gpt(**changes):
    """Untrained, in eval mode, its parameters so large that every part of it makes a difference."""
    model = MiniGPT(**{"vocab_size": 11, "context_length": 8, "embed_dim": 16, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def same_parameters(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


# ---------------------------------------------------------------- text becomes tokens
def test_the_vocabulary_is_the_delimiter_and_then_each_word_once():
    assert VOCAB.tokens[0] == DELIMITER == "<|endoftext|>"
    assert VOCAB.tokens[1:] == sorted({word for line in SENTENCES for word in line.split()})
    assert len(VOCAB.tokens) == 17
    for sentence in SENTENCES:
        assert VOCAB.decode(VOCAB.encode(sentence)) == sentence and 0 not in VOCAB.encode(sentence)


def test_tokens_can_be_characters_white_space_included():
    vocab = Vocab(["to be", "or "], chars=True)
    assert vocab.tokens == [DELIMITER, " ", "b", "e", "o", "r", "t"]
    assert vocab.decode(vocab.encode(" be or  ")) == " be or  "
    assert generate(" be ", MiniLSTM(7), vocab, max_new_tokens=0) == " be "


@pytest.mark.parametrize("text, named", [
    ("deep zebra learning", "'zebra'"), ("Deep", "'Deep'.*case"), (DELIMITER, "endoftext")])
def test_an_unknown_token_is_refused_by_name(text, named):
    with pytest.raises(ValueError, match=named):
        VOCAB.encode(text)


def test_a_delimiter_opens_and_closes_every_line():
    assert SEQUENCES[0] == [0, *VOCAB.encode("deep learning is powerful"), 0]
    assert len(SEQUENCES) == 6 and count_predictions(SEQUENCES) == 30


@pytest.mark.parametrize("context_length", [1, 2, 3, 5, 6, 7])
def test_lines_longer_than_the_context_are_cut_so_that_each_token_is_predicted_once(context_length):
    pieces = make_sequences(map(VOCAB.encode, SENTENCES), context_length)
    assert all(2 <= len(piece) <= context_length + 1 for piece in pieces)
    rebuilt = []
    for piece in pieces:
        if piece[0] == 0:
            rebuilt.append([0])
        assert piece[0] == rebuilt[-1][-1]  # it starts as the one before ended
        rebuilt[-1] += piece[1:]
    assert rebuilt == SEQUENCES


def test_the_mask_forbids_exactly_the_future():
    mask = causal_mask(5)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[s > t for s in range(5)] for t in range(5)]


@pytest.mark.parametrize("B, T, C, H", [(1, 1, 8, 1), (2, 5, 32, 4), (3, 7, 12, 3)])
def test_shapes_of_attention_and_block(B, T, C, H):
    x = torch.randn(B, T, C)
    for layer in (MaskedSelfAttention(C, H, 0.1), GPTBlock(C, H, 0.1)):
        out, weights = layer(x)
        assert out.shape == (B, T, C) and weights.shape == (B, H, T, T)


def test_attention_weights_are_masked_before_the_softmax_and_returned_before_dropout():
    attention = MaskedSelfAttention(32, 4, dropout=0.5)
    _, weights = attention(torch.randn(3, 7, 32))
    assert (weights[..., causal_mask(7)] == 0).all() and (weights[..., ~causal_mask(7)] > 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 7))


def test_attention_weights_are_the_softmax_of_scores_over_the_root_of_the_head_size():
    attention, x = MaskedSelfAttention(32, 2, dropout=0.0), torch.randn(1, 3, 32)
    q, k, _ = attention.qkv(x).chunk(3, dim=-1)
    for head, channels in enumerate([slice(0, 16), slice(16, 32)]):
        scores = q[0, 2, channels] @ k[0, :, channels].T / 4  # the last token attends to all three
        torch.testing.assert_close(attention(x)[1][0, head, 2], scores.softmax(dim=-1))


def test_the_residual_connections_pass_on_the_input_of_a_block_that_has_nothing_to_add():
    block, x = GPTBlock(32, 4, dropout=0.0), torch.randn(2, 5, 32)
    for layer in (block.attention.projection, block.feed_forward[-1]):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    torch.testing.assert_close(block(x)[0], x)


# ---------------------------------------------------------------- tokens become predictions
@pytest.mark.parametrize("B, T, H, L", [(1, 1, 1, 1), (2, 5, 4, 2), (3, 8, 2, 3)])
def test_shapes_of_the_model(B, T, H, L):
    model = MiniGPT(vocab_size=11, context_length=8, embed_dim=16, num_heads=H, num_layers=L)
    logits, attention_weights = model(torch.randint(11, (B, T)))
    assert logits.shape == (B, T, 11)
    assert [tuple(weights.shape) for weights in attention_weights] == [(B, H, T, T)] * L


def pytorchs_own(model):
    """PyTorch's pre-LN encoder with the model's parameters; a causal mask makes it a GPT's."""
    C, H = model.head.in_features, model.blocks[0].attention.num_heads
    layer = nn.TransformerEncoderLayer(C, H, dim_feedforward=4 * C, dropout=0.0, activation="gelu",
                                       batch_first=True, norm_first=True)
    L = len(model.blocks)
    encoder = nn.TransformerEncoder(layer, L, model.norm, enable_nested_tensor=False)
    names = {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.projection.",
             "linear1.": "feed_forward.0.", "linear2.": "feed_forward.3.",
             "norm1.": "norm1.", "norm2.": "norm2."}
    for theirs, ours in zip(encoder.layers, model.blocks):
        state = ours.state_dict()
        theirs.load_state_dict({their_name + kind: state[our_name + kind]
                                for their_name, our_name in names.items()
                                for kind in ("weight", "bias")})
    return encoder


def test_the_model_is_embeddings_then_pytorchs_encoder_then_a_norm_and_a_projection():
    model, idx = small_gpt(num_layers=3).double(), torch.randint(11, (2, 8))
    x = model.token_embedding.weight[idx] + model.position_embedding.weight[:8]
    expected = model.head(pytorchs_own(model).double()(x, mask=causal_mask(8)))
    torch.testing.assert_close(model(idx)[0], expected, rtol=0, atol=1e-10)


def test_a_token_never_sees_the_future_but_all_of_the_past():
    model, embedded = small_gpt(), []
    model.token_embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits, _ = model(torch.randint(11, (2, 8)))
    for t in range(8):
        gradient, = torch.autograd.grad(logits[:, t].sum(), embedded[0], retain_graph=True)
        assert (gradient[:, t + 1:] == 0).all()
        assert (gradient[:, :t + 1] != 0).any(dim=-1).all()  # but every earlier token has a say


def test_more_tokens_than_the_context_holds_are_refused():
    with pytest.raises(ValueError, match="9 tokens.*8"):
        small_gpt()(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("options, share", [({}, 0.1), ({"dropout": 0.7}, 0.7)])
def test_dropout_acts_in_four_places_of_every_block_and_is_a_tenth_by_default(options, share):
    model, dropped = MiniGPT(11, 8, num_layers=3, **options), []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda it, x, out: dropped.append((it.p, out.shape)))
    model(torch.zeros(2, 5, dtype=torch.long))
    # attention weights; what attention adds; inside the feed-forward network; what that adds
    assert dropped == 3 * [(share, (2, 4, 5, 5)), (share, (2, 5, 32)), (share, (2, 5, 128)),
                           (share, (2, 5, 32))]
    assert MiniLSTM(11, **options).lstm.dropout == share
    assert [*MiniLSTM(11).lstm.state_dict().values()][-1].shape == (4 * 39,)  # 32 channels
    bare = MiniGPT(11, 8, num_layers=0, dropout=0.9)  # and nowhere else
    assert bare(torch.zeros(1, 8, dtype=torch.long))[0].equal(bare(torch.zeros(1, 8).long())[0])


@pytest.mark.parametrize("layers, training", [(3, False), (1, True)])  # dropout is between layers
def test_the_lstm_is_an_embedding_then_pytorchs_lstm_then_a_projection(layers, training):
    model = MiniLSTM(11, embed_dim=13, num_layers=layers, dropout=0.5).train(training)
    theirs = nn.LSTM(16, 16, layers, batch_first=True)  # 16 is 13 times the root of 12 / 8
    theirs.load_state_dict(model.lstm.state_dict())
    idx = torch.randint(11, (2, 5))
    logits, attention_weights = model(idx)
    expected = model.head(theirs(model.token_embedding.weight[idx])[0])
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (2, 5, 11) and attention_weights == []


# ---------------------------------------------------------------- predictions become a loss
def test_targets_are_the_inputs_one_step_ahead_and_padding_is_left_out_of_them():
    inputs, targets = collate([[0, 5, 3, 9, 0], [0, 7, 0]])
    assert inputs.tolist()[0] == [0, 5, 3, 9] and inputs.tolist()[1][:2] == [0, 7]
    assert targets.tolist() == [[5, 3, 9, 0], [7, 0, -100, -100]]
    assert ((0 <= inputs) & (inputs < 10)).all()  # also where they are padding, they must be ids


def test_the_loss_is_the_mean_surprise_at_each_next_token_so_targets_are_not_padding():
    model, sequences = small_gpt(), [[0, 5, 3, 9, 0], [0, 7, 0], [0, 7, 7, 0]]
    surprises = []
    for sequence in sequences:
        for t in range(1, len(sequence)):
            logits, _ = model(torch.tensor([sequence[:t]]))
            surprises.append(-F.log_softmax(logits[0, -1], dim=-1)[sequence[t]].item())
    expected = pytest.approx(sum(surprises) / 9, abs=1e-5)
    assert next_token_loss(model, *collate(sequences)).item() == expected
    for batch_size in (1, 2, 32):  # a mean over tokens, not over batches, and without dropout
        assert evaluate(model.train(), sequences, batch_size) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training_and_evaluation(value):
    model = MiniGPT(17, 6)
    nn.init.constant_(model.head.bias, 0.0 if value == math.inf else value)
    if value == math.inf:  # every target is infinitely unlikely
        model.head.bias.data[:16] = -math.inf
    for act in (train, evaluate):
        with pytest.raises(FloatingPointError, match=f"{value}.*learning rate"):
            act(model, SEQUENCES[1:2])


@pytest.mark.parametrize("context_length", [3, 100])
def test_the_entropy_floor_is_the_mean_entropy_of_what_follows_each_prefix(context_length):
    words, followers = random.Random(0), defaultdict(Counter)
    lines = [words.choices(range(1, 4), k=words.randint(1, 7)) for _ in range(200)]
    sequences = make_sequences(lines, context_length)
    for sequence in sequences:
        for t in range(1, len(sequence)):
            followers[tuple(sequence[:t])][sequence[t]] += 1
    nats = sum(-n * math.log(n / counts.total())
               for counts in followers.values() for n in counts.values())
    assert entropy_floor(sequences) == pytest.approx(nats / count_predictions(sequences))


# ---------------------------------------------------------------- the loss becomes learning
def test_training_is_plain_adam_on_the_mean_loss_of_each_batch_with_dropout(monkeypatch):
    model, by_hand = MiniGPT(17, 6, dropout=0.3).eval(), MiniGPT(17, 6, dropout=0.3).train()
    by_hand.load_state_dict(model.state_dict())
    batches = []
    monkeypatch.setattr(mini_gpt, "next_token_loss", lambda model, *batch: (
        batches.append(batch) or next_token_loss(model, *batch)))
    torch.manual_seed(3)
    losses = train(model, SEQUENCES, epochs=5, batch_size=4, lr=0.01)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01, fused=True)
    torch.manual_seed(3)  # the same dropout
    for batch, loss in zip(batches, losses, strict=True):
        loss_by_hand = next_token_loss(by_hand, *batch)
        optimizer.zero_grad()
        loss_by_hand.backward()
        optimizer.step()
        assert loss == pytest.approx(loss_by_hand.item(), abs=1e-5)
    assert len(losses) == 10 and same_parameters(model, by_hand)
    assert len(train(by_hand, SEQUENCES * 6, epochs=1)) == 2  # batches of 32


def batches_of(epochs, seed=0):
    """What a model is shown: per epoch, a list of batches, each a list of lines."""
    model, seen = MiniGPT(17, 6), []
    model.register_forward_pre_hook(lambda module, args: seen.append(sorted(args[0].tolist())))
    torch.manual_seed(seed)
    train(model, SEQUENCES, epochs=epochs, batch_size=4)
    return [seen[i:i + 2] for i in range(0, len(seen), 2)]


def test_an_epoch_shows_every_sequence_once_in_a_new_order_that_the_seed_decides():
    epochs = batches_of(4)
    lines = sorted(sequence[:-1] for sequence in SEQUENCES)
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 2]
        assert sorted([*filter(None, row)] for batch in epoch for row in batch) == sorted(
            [*filter(None, line)] for line in lines)
    assert len({str(epoch[1]) for epoch in epochs}) > 1  # other sequences meet in a batch
    assert batches_of(4) == epochs != batches_of(4, seed=1)


def test_training_overfits_the_sentences_down_to_their_entropy_floor_and_not_below(trained):
    floor = entropy_floor(SEQUENCES)
    assert floor < evaluate(trained, SEQUENCES) < floor + 0.03


def test_every_first_word_is_completed_to_one_of_the_sentences(trained):
    for first_word in ["", *{sentence.split()[0] for sentence in SENTENCES}]:
        assert generate(first_word, trained, VOCAB) in SENTENCES


def ticking(monkeypatch, seconds):
    """A clock that goes on by so many seconds each time that it is read."""
    monkeypatch.setattr(mini_gpt.time, "perf_counter", itertools.count(step=seconds).__next__)


@pytest.mark.parametrize("epochs, lines", [(1, 2), (3, 6), (5, 10), (16, 10), (50, 10), (53, 10)])
def test_progress_is_ten_lines_or_one_a_step_and_the_last_is_of_the_last(epochs, lines, capsys):
    losses = train(MiniGPT(17, 6), SEQUENCES, epochs=epochs, batch_size=4)
    printed = capsys.readouterr().out.splitlines()
    steps = [int(re.match(r"step +(\d+)/", line)[1]) for line in printed]
    assert len(losses) == 2 * epochs and len(steps) == lines
    assert steps[-1] == 2 * epochs and steps == sorted(steps)
    gaps = [b - a for a, b in zip([0, *steps], steps)]
    assert max(gaps) - min(gaps) <= 1
    assert epochs > 5 or f"  loss {losses[-1]:.4f}  " in printed[-1]


def test_progress_shows_the_mean_loss_since_the_line_before_tokens_per_second_and_time_left(
        monkeypatch, capsys):
    ticking(monkeypatch, 2)
    losses = train(MiniGPT(17, 6), SEQUENCES, epochs=20)
    printed = capsys.readouterr().out.splitlines()
    shown = [float(re.search(r"loss (\S+)", line)[1]) for line in printed]
    means = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2])]
    assert shown == pytest.approx(means, abs=1e-4)
    assert all("  15 tokens/s" in line for line in printed)  # 30 in a step of two seconds
    assert "0:00:36 left" in printed[0] and "0:00:00 left" in printed[-1]


def test_in_a_terminal_a_line_lives_for_a_second_and_never_wraps(monkeypatch, capsys):
    ticking(monkeypatch, 0.25)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    train(MiniGPT(17, 6), SEQUENCES, epochs=70)
    live = [line for line in capsys.readouterr().out.splitlines(True) if line.endswith("\r")]
    assert [int(line.split()[1].split("/")[0]) for line in live] == [
        step for step in range(4, 70, 4) if step % 7]  # every second, or a line that stays
    monkeypatch.setattr(mini_gpt.time, "perf_counter", lambda: 90_000.0)
    report([12.5] * 1000, 9_999_999, 10**15, start=0.0)  # in a run of thirty years
    line, = capsys.readouterr().out.splitlines()
    assert len(line) == 79 and "days" in line


@pytest.mark.parametrize("step", [1, 4])
def test_ctrl_c_ends_training_at_any_step_and_what_was_learned_is_kept(step, monkeypatch, capsys):
    calls = itertools.count(1)

    def interrupted(*args):
        if next(calls) == step:
            raise KeyboardInterrupt
        return next_token_loss(*args)

    monkeypatch.setattr(mini_gpt, "next_token_loss", interrupted)
    losses = train(MiniGPT(17, 6), SEQUENCES)
    assert len(losses) == step - 1
    assert f"stopped at step {step - 1}" in capsys.readouterr().out


# ---------------------------------------------------------------- learning becomes text
LOGITS = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sampling_divides_the_logits_by_the_temperature(temperature):
    expected = F.softmax(LOGITS / temperature, dim=0)
    torch.testing.assert_close(sampling_probabilities(LOGITS, temperature).float(), expected)


@pytest.mark.parametrize("options, kept", [
    ({}, {0, 1, 2, 3}), ({"top_k": 1}, {1}), ({"top_k": 2}, {1, 3}), ({"top_k": 3}, {0, 1, 3}),
    ({"top_k": 9}, {0, 1, 2, 3}), ({"top_p": 1e-9}, {1}), ({"top_p": 0.49}, {1}),
    ({"top_p": 0.51}, {1, 3}), ({"top_p": 0.79}, {1, 3}), ({"top_p": 0.81}, {0, 1, 3}),
    ({"top_p": 0.96}, {0, 1, 2, 3}), ({"top_p": 1.0}, {0, 1, 2, 3}),
    ({"top_k": 2, "top_p": 0.6}, {1}),  # of the two that top_k leaves, the first has 0.5 / 0.8
    ({"top_k": 2, "top_p": 0.7}, {1, 3}), ({"top_k": 1, "top_p": 0.9}, {1}),
], ids=str)
def test_sampling_keeps_exactly_the_likeliest_tokens(options, kept):
    probabilities = sampling_probabilities(LOGITS, **options)
    expected = torch.tensor([LOGITS[i].exp() if i in kept else 0.0 for i in range(4)])
    assert set(probabilities.nonzero().flatten().tolist()) == kept
    torch.testing.assert_close(probabilities.float(), expected / expected.sum())


def test_sampling_takes_the_temperature_first_and_then_top_p():
    assert (sampling_probabilities(LOGITS, 0.2, top_p=0.85) > 0).tolist() == [0, 1, 0, 0]
    assert (sampling_probabilities(LOGITS, 5.0, top_p=0.85) > 0).tolist() == [1, 1, 1, 1]


def test_sampling_by_top_p_takes_half_of_equal_tokens_for_a_half_and_a_small_tail_for_1():
    assert (sampling_probabilities(torch.zeros(4), top_p=0.5) > 0).sum() == 2
    tail = torch.tensor([0.996, 0.004]).log()
    assert sampling_probabilities(tail, top_p=1.0).tolist() == pytest.approx([0.996, 0.004])


@pytest.mark.parametrize("options", [{"temperature": 1e-40}, {"temperature": 5e-324},
                                     {"temperature": 1e300}, {"top_p": 1e-300}])
def test_sampling_works_with_the_most_extreme_options(options):
    probabilities = sampling_probabilities(1000 * LOGITS, **options)
    uniform = options == {"temperature": 1e300}
    assert probabilities.tolist() == pytest.approx([0.25] * 4 if uniform else [0, 1, 0, 0])


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0},
                                 {"temperature": 0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(ValueError, match="sampling"):
        sampling_probabilities(LOGITS, **bad)


class Scripted(nn.Module):
    """Stands in for a model: after n tokens the likeliest next one is script[n - 1]."""

    def __init__(self, script, context_length=100):
        super().__init__()
        self.script, self.context_length, self.seen = script, context_length, []
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, idx):
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append(idx[0].tolist())
        logits = torch.zeros(*idx.shape, 17)
        logits[0, -1, self.script[len(self.seen) - 1]] = 1
        return logits, []


@pytest.mark.parametrize("prompt, script, text, seen", [
    ("deep", "learning <|endoftext|> fun", "deep learning", "<|endoftext|> deep learning"),
    ("", "fun <|endoftext|>", "fun", "<|endoftext|> fun"),
    ("deep", "is is is is is", "deep is is is is", "<|endoftext|> deep is is is"),
    ("use all", "is all you need", "use all is all you need", "use all is all you"),
])
def test_generation_stops_at_the_delimiter_or_after_max_new_tokens_and_shows_the_model_its_context(
        prompt, script, text, seen):
    model = Scripted([VOCAB.tokens.index(word) for word in script.split()], context_length=5)
    assert generate(prompt, model, VOCAB, max_new_tokens=4) == text
    assert model.seen[0] == [0, *VOCAB.encode(prompt)]
    assert VOCAB.decode(model.seen[-1]) == seen


def test_generation_shows_the_lstm_all_of_a_long_text():
    model, lengths = MiniLSTM(17), []
    model.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    nn.init.constant_(model.head.bias[0:1], -100.0)  # never the delimiter
    generate("deep " * 200, model, VOCAB, max_new_tokens=3)
    assert lengths == [201, 202, 203]


def test_generation_is_greedy_at_temperature_0_only(trained):
    for prompt in ("", "deep", "transformers"):
        greedy = generate(prompt, trained, VOCAB)
        assert greedy == generate(prompt, trained, VOCAB, temperature=0.0, top_p=0.1)
        assert greedy == generate(prompt, trained, VOCAB, temperature=5.0, top_k=1)
    cold, warm, hot = (len({generate("", trained, VOCAB, temperature=temperature)
                            for _ in range(20)}) for temperature in (0.1, 1.0, 50.0))
    assert 1 <= cold < warm < hot
    assert generate.__wrapped__.__defaults__ == (20, 0.0, None, 1.0)  # greedy, nothing left out


def test_samples_follow_the_odds_of_the_sentences(trained):
    samples = Counter(generate("deep learning is", trained, VOCAB, temperature=1.0, top_p=0.9)
                      for _ in range(200))
    assert set(samples) == {"deep learning is powerful", "deep learning is fun"}
    assert 60 < samples["deep learning is fun"] < 140


# ---------------------------------------------------------------- learning becomes a picture
def some_weights(L=2, B=2, H=3, T=4):
    scores = torch.randn(L, B, H, T, T, requires_grad=True)
    return list(scores.masked_fill(causal_mask(T), float("-inf")).softmax(dim=-1))


def panels():
    return [ax for ax in plt.gcf().axes if ax.get_title()]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def cells(ax):
    """The numbers behind the colours of a panel, masked where it is blank."""
    values = ax.collections[0].get_array()
    size = math.isqrt(values.size)
    return values.reshape(size, size)


def test_the_picture_has_a_titled_panel_per_head_with_a_cell_per_pair_of_tokens():
    weights = some_weights()  # which still carry gradients
    plot_attention(weights, layer=1, tokens=["a", "b", "c", "d"])
    assert [ax.get_title() for ax in panels()] == [f"layer 1, head {h}" for h in range(3)]
    for head, ax in enumerate(panels()):
        assert (cells(ax).mask == causal_mask(4).numpy()).all()  # the future is blank
        shown = torch.tensor(cells(ax).filled(0.0))
        torch.testing.assert_close(shown, weights[1][0, head].detach(), check_dtype=False)
        assert ax.collections[0].get_clim() == (0, 1)
        numbers = [text.get_text() for text in ax.texts]
        assert numbers == [f"{w:.2f}" for w in shown[~causal_mask(4)]]


def test_the_picture_has_words_from_top_to_bottom_and_below_every_panel_from_left_to_right():
    plot_attention(some_weights(), tokens=["a", "b", "c", "d"])
    assert labels(panels()[0].yaxis) == ["a", "b", "c", "d"]
    for ax in panels():
        assert labels(ax.xaxis) == ["a", "b", "c", "d"]
        assert ax.yaxis_inverted() and not ax.xaxis_inverted()
        assert list(ax.get_xticks()) == list(ax.get_yticks()) == [0.5, 1.5, 2.5, 3.5]
    plot_attention(some_weights())  # without words, their positions
    assert labels(panels()[0].xaxis) == labels(panels()[0].yaxis) == ["0", "1", "2", "3"]
    assert plt.gcf().axes[-1].get_ylabel() == "attention weight"  # the scale of the colours
    assert plt.gcf().get_supylabel() == "this token ..."
    assert plt.gcf().get_supxlabel() == "... attends to this token"


@pytest.mark.filterwarnings("error")
def test_the_picture_shows_any_word_without_a_warning():
    plot_attention(some_weights(T=6), tokens=["x" * 40, "$^$", " ", "\t", "\u2028", "naïve"])
    assert labels(panels()[0].xaxis) == ["x" * 15 + "…", "$^$", "␣", r"\t", r"\u2028", "naïve"]
    plt.savefig("words.png")
    left, _, right, _ = panels()[0].get_tightbbox().extents
    assert right - left < 500  # pixels at 100 dpi: no word takes more room than the heatmap


def test_a_picture_of_many_tokens_has_no_numbers_and_no_grid_that_would_hide_the_cells():
    plot_attention([torch.ones(1, 1, 200, 200).tril()])
    ax, = panels()
    assert not ax.texts and set(ax.collections[0].get_linewidths()) <= {0.0}
    assert max(plt.gcf().get_size_inches()) < 10
    plt.savefig("many.png", dpi=50)
    dark = plt.imread("many.png")[..., :3].sum(axis=-1) < 1.5
    assert dark.mean() > 0.15  # the lower triangle, all ones, is dark
    plot_attention(some_weights(H=1, T=12))
    assert panels()[0].texts and set(panels()[0].collections[0].get_linewidths()) == {0.5}


def test_a_layer_that_does_not_exist_or_words_that_do_not_fit_are_refused():
    with pytest.raises(IndexError):
        plot_attention(some_weights(), layer=2)
    with pytest.raises(ValueError, match="labels"):
        plot_attention(some_weights(), tokens=["a", "b", "c"])


# ---------------------------------------------------------------- the command line
@pytest.fixture
def trainings(monkeypatch):
    """The model and the sequences of each call of train."""
    calls = []
    monkeypatch.setattr(mini_gpt, "train", lambda model, sequences, *rest: (
        calls.append((model, sequences)) or train(model, sequences, *rest)))
    return calls


def outcome(printed):
    """The printed lines but for those of progress."""
    return [line.rstrip() for line in printed.splitlines() if not line.startswith("step")]


def figures(printed, name):
    """The numbers in the line of the output that starts with this name."""
    line, = [line for line in printed.splitlines() if line.startswith(name + " ")]
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_the_command_line_does_what_its_functions_do(trainings, capsys, monkeypatch):
    monkeypatch.setattr(mini_gpt, "plot_attention", plot_attention)
    letters = random.Random(5)
    lines = ["".join(letters.choices("abc ", k=letters.randint(1, 12))) + "." for _ in range(30)]
    Path("mine.txt").write_text("\n".join(lines + lines[:5]))
    returned = main("--data mine.txt --chars --context 7 --holdout 0.25 --epochs 3 --batch-size 4 "
                    "--lr 0.004 --embed-dim 24 --heads 3 --layers 3 --dropout 0.2 --compare-lstm "
                    "--prompt abcabcab --max-new-tokens 5 --temperature 0.7 --top-k 4 --top-p 0.8 "
                    "--samples 3 --seed 11 --plot shapes.svg".split())
    printed = outcome(capsys.readouterr().out)
    drawn = [(ax.get_title(), cells(ax), labels(ax.xaxis)) for ax in panels()]

    vocab = Vocab(lines, chars=True)
    sequences = {line: make_sequences([vocab.encode(line)], 7) for line in lines}
    training = trainings[0][1]
    held_out = [piece for line in lines + lines[:5] for piece in sequences[line]
                if sequences[line][0] not in training]
    assert trainings[1][1] == training
    assert sorted(training + held_out) == sorted(
        piece for line in lines + lines[:5] for piece in sequences[line])
    unseen = [line for line in sequences if sequences[line][0] not in training]
    assert len(unseen) == round(len(sequences) / 4)

    torch.manual_seed(11)
    V = len(vocab.tokens)
    gpt, lstm = MiniGPT(V, 7, 24, 3, 3, 0.2), MiniLSTM(V, 24, 3, 0.2)
    expected = [f"data      35 lines, {count_predictions(training):,} tokens to predict, "
                f"vocabulary of {V}",
                f"floor     {entropy_floor(training):.4f} nats/token: "
                "no causal model trains lower"]
    texts = []
    for model in (gpt, lstm):
        parameters = sum(math.prod(parameter.shape) for parameter in model.parameters())
        expected.append(f"model     {type(model).__name__}, {parameters:,} parameters on cpu")
        torch.manual_seed(11)
        train(model, training, epochs=3, batch_size=4, lr=0.004)
        for name, part in [("training", training), ("held-out", held_out)]:
            loss = evaluate(model, part)
            expected.append(f"{name}  loss {loss:.4f}, perplexity {math.exp(loss):.2f}")
        for _ in range(3):
            texts.append(generate("abcabcab", model, vocab, max_new_tokens=5, temperature=0.7,
                                  top_k=4, top_p=0.8))
            is_new = not any(line.startswith(texts[-1]) for line in lines)
            expected.append(f"text      {texts[-1]}" + "  (new)" * is_new)
    assert printed == [*(line.rstrip() for line in expected), "picture   shapes.svg"]
    assert same_parameters(trainings[0][0], gpt) and same_parameters(trainings[1][0], lstm)

    assert returned[0] is trainings[0][0] and returned[1].tokens == vocab.tokens
    ids = [0, *vocab.encode(texts[0])][-7:]
    for weights, again in zip(returned[2], gpt.eval()(torch.tensor([ids]))[1], strict=True):
        torch.testing.assert_close(weights, again)
        assert not weights.requires_grad
    words = [vocab.tokens[i].replace(" ", "␣") for i in ids]
    for head, (title, values, columns) in enumerate(drawn):
        assert title == f"layer 0, head {head}" and columns == words
        assert values.filled(0.0) == pytest.approx(returned[2][0][0, head].numpy())
    assert len(drawn) == 3 and "<svg" in Path("shapes.svg").read_text()
    assert [path.name for path in sorted(Path().iterdir())] == ["mine.txt", "shapes.svg"]


def test_by_default_it_does_what_the_functions_do_by_default(trained, capsys):
    model, vocab, _ = main()
    printed = outcome(capsys.readouterr().out)
    assert same_parameters(model, trained) and vocab.tokens == VOCAB.tokens
    assert printed[-2:] == ["text      deep learning is powerful", "picture   attention.png"]
    assert not any(line.startswith("held-out") for line in printed)


def test_a_text_is_new_unless_a_line_begins_with_its_tokens(monkeypatch, capsys):
    texts = ["deeper water", "is deep", "is", "", "deep", "water", "is deeper", "is deep water"]
    Path("mine.txt").write_text("deeper water\nis deep\n")
    queue = iter(["", *texts])  # the rehearsal comes first
    monkeypatch.setattr(mini_gpt, "generate", lambda *args: next(queue))
    main("--data mine.txt --holdout 0.5 --epochs 1 --samples 8 --temperature 0.8".split())
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("text")]
    assert ["(new)" in line for line in printed] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("options, device", [
    ("", "cpu"), ("--data mine.txt", "cuda"), ("--data mine.txt --device cpu", "cpu")])
def test_the_six_sentences_run_on_the_cpu_and_own_text_on_cuda_where_there_is_one(
        options, device, monkeypatch):
    Path("mine.txt").write_text("a b")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nn.Module, "to", lambda self, where: pytest.fail(f"asked for {where}"))
    with pytest.raises(pytest.fail.Exception, match=f"asked for {device}"):
        main(options.split())


@pytest.mark.parametrize("device, is_here", [("cpu", True), ("cuda", torch.cuda.is_available()),
                                             ("mps", torch.backends.mps.is_available())])
def test_each_device_computes_or_is_refused_where_it_is_missing(device, is_here, capsys):
    options = f"--device {device} --epochs 2 --compare-lstm --temperature 1 --top-p 0.9".split()
    if is_here:
        model, _, attention_weights = main(options)
        assert next(model.parameters()).device.type == attention_weights[0].device.type == device
    else:
        assert device in refused(options, capsys)


def test_a_small_model_computes_on_one_thread_and_a_large_one_on_as_many_as_before(monkeypatch):
    used = []
    monkeypatch.setattr(mini_gpt, "train", lambda *args: used.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    main()
    main("--embed-dim 272 --layers 1".split())
    main("--embed-dim 320 --layers 1".split())
    monkeypatch.setattr(mini_gpt, "train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # an error in the code keeps its traceback
        main()
    assert used == [1, 1, 2] and torch.get_num_threads() == 2  # the process is its importer's


def test_own_text_is_read_without_blank_lines_byte_order_mark_or_carriage_returns(capsys):
    Path("mine.txt").write_bytes("\ufeffgrüß dich\r\n\r\n  \r\n\tdich\t auch \r\n".encode())
    _, vocab, _ = main("--data mine.txt --epochs 1".split())
    assert vocab.tokens == [DELIMITER, "auch", "dich", "grüß"]
    assert "data      2 lines, 6 tokens to predict, vocabulary of 4" in capsys.readouterr().out
    _, vocab, _ = main("--data mine.txt --chars --epochs 1".split())
    assert vocab.tokens == [DELIMITER, *sorted(set("grüß dich\tauch"))]


def test_only_a_line_break_ends_a_line_and_its_white_space_counts_as_characters(trainings):
    Path("mine.txt").write_text("a\x0cb\u2028c \n a\n", encoding="utf-8")
    _, vocab, _ = main("--data mine.txt --chars --epochs 1".split())
    assert [vocab.decode(line[1:-1]) for line in trainings[0][1]] == ["a\x0cb\u2028c ", " a"]


@pytest.mark.parametrize("options, context_length", [("", 128), ("--context 3", 3),
                                                     ("--context 900", 900)])
def test_the_context_is_as_asked_or_the_longest_line_up_to_128(options, context_length):
    Path("mine.txt").write_text("a\n" + "b " * 500)
    model, _, _ = main(f"--data mine.txt --epochs 1 --max-new-tokens 1 {options}".split())
    assert model.context_length == context_length == model.position_embedding.num_embeddings


def test_held_out_lines_and_all_that_have_the_same_tokens_are_never_trained_on(trainings, capsys):
    numbers = [f"n {n}" for n in range(40)]
    spaced = [line.replace(" ", "\t  ") + " " for line in numbers[:20]]
    Path("mine.txt").write_text("\n".join(numbers + spaced + numbers[:10]))
    model, vocab, _ = main("--data mine.txt --holdout 0.25 --epochs 1".split())
    learned = Counter(vocab.decode(sequence[1:-1]) for sequence in trainings[0][1])
    assert len(vocab.tokens) == 42 and len(learned) == 30  # all words are known, 10 lines aren't
    copies = Counter(numbers + numbers[:20] + numbers[:10])
    assert all(copies[line] == n for line, n in learned.items())  # as often as in the file
    held_out = [[0, *vocab.encode(line), 0] for line in copies.elements() if line not in learned]
    assert figures(capsys.readouterr().out, "held-out")[0] == pytest.approx(
        evaluate(model, held_out), abs=1e-4)


def test_the_seed_draws_what_is_held_out(trainings):
    for seed in "112":
        main(["--epochs", "1", "--holdout", "0.5", "--seed", seed])
    assert trainings[0][1] == trainings[1][1] != trainings[2][1]


def test_the_optimizer_has_been_loaded_before_ctrl_c_may_end_training(monkeypatch, capsys):
    made, adam = [], torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, **kwargs: (
        made.append(capsys.readouterr().out) or adam(*args, **kwargs)))
    main(["--epochs", "1"])
    assert made[0] == "" and "model" in made[1]


def test_a_first_ctrl_c_ends_training_and_a_second_the_evaluation_and_the_rest_goes_on(
        monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(mini_gpt, "next_token_loss", interrupted)
    main(["--holdout", "0.5"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "data", "floor", "model", "stopped", "text", "picture"]
    assert Path("attention.png").exists()


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for default in (300, 32, 0.001, 4, 2, 0.1, 20, 0.0, 1.0, 1, 2017, "attention.png"):
        assert f"(default: {default})" in printed
    assert printed.count("(default: ") == 21  # the number of options, but for --help


def refused(options, capsys, at_once=True):
    """The one line with which main refuses the options, before it prints anything else."""
    with pytest.raises(SystemExit) as stop:
        main(options)
    out, err = capsys.readouterr()
    error, = err.splitlines()
    assert stop.value.code == 2 and (out == "") is at_once
    return error


@pytest.mark.parametrize("options", """
    --epochs 0, --epochs many, --epochs 1.5, --epochs 9999999999, --batch-size 0, --batch-size
    2147483648, --dropout 1.1, --dropout -0.1, --dropout nan, --lr -1, --lr inf, --lr nan, --layers
    0, --heads 5, --heads 0, --heads -4, --embed-dim 0, --max-new-tokens 0, --seed -1, --prompt
    zebra, --prompt Deep, --chars --prompt q, --prompt <|endoftext|>, --device nonsense, --plot
    no/such/folder.png, --plot x.jpg, --plot .png, --plot folder.png, --plot file/x.png, --plot=,
    --epoch 3, --nonsense, --temperature -0.1, --temperature nan, --temperature inf, --top-k 0,
    --top-p 0, --top-p 1.1, --samples 0, --context 0, --holdout 1, --holdout -0.1, --holdout 0.01,
    --holdout 0.99, --holdout nan, --data missing.txt, --data .
    """.replace("\n", " ").split(","))
def test_a_bad_option_is_refused_in_one_line_before_anything_else(options, capsys):
    Path("folder.png").mkdir()
    Path("file").touch()
    line, words = refused(options.split(), capsys), options.strip(" -=").split()
    assert words[-2 if len(words) > 1 else 0].strip("-") in line or (
        words[-1] in line and not words[-1][-1].isdigit())  # it names the option, or the word
    assert sorted(path.name for path in Path().iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("content, named", [
    (b"", "of 0 lines"), (b"\n \n\t\n", "of 0 lines"), (b"caf\xe9\n", "utf-8"),
    (b"a <|endoftext|> b\n", "endoftext"),
])
def test_a_file_without_proper_text_is_refused(content, named, capsys):
    Path("mine.txt").write_bytes(content)
    assert named in refused(["--data", "mine.txt"], capsys)
    assert "directory" in refused(["--data", ""], capsys)


@pytest.mark.parametrize("options", ["--lr 1e9", "--epochs 1 --lr 1e7"])
def test_training_that_diverges_also_in_its_last_step_ends_in_one_line_and_draws_nothing(
        options, capsys):
    Path("attention.png").write_text("an older picture")
    assert "learning rate" in refused(options.split(), capsys, at_once=False)
    assert Path("attention.png").read_text() == "an older picture"


def test_a_picture_that_turns_out_not_to_be_writable_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(plt, "savefig", lambda path, **options: open("no/such/folder"))
    assert "no/such/folder" in refused(["--epochs", "1"], capsys, at_once=False)


@pytest.mark.parametrize("options", [
    "--dropout 0", "--dropout 1 --compare-lstm", "--temperature 0 --top-k 1", "--seed 0", "--lr 0",
    "--top-p 1 --temperature 1", "--temperature 1e-40 --top-p 1e-300", "--layers 1 --compare-lstm",
    "--batch-size 2147483647", "--heads 1", "--context 1", "--holdout 0.9",
])
@pytest.mark.filterwarnings("error")
def test_options_at_the_edge_of_what_is_accepted_work(options):
    model, _, _ = main([*options.split(), "--epochs", "2"])
    if options == "--lr 0":
        torch.manual_seed(mini_gpt.SEED)
        assert same_parameters(model, MiniGPT(17, 6))


@pytest.mark.parametrize("name, start", [("a.PNG", b"\x89"), ("a.pdf", b"%PDF"), ("a.Svg", b"<?")])
def test_the_pictures_name_says_of_what_kind_it_is(name, start, capsys):
    main(["--epochs", "1", "--plot", name])
    assert Path(name).read_bytes().startswith(start)
    assert capsys.readouterr().out.endswith(f"\npicture   {name}\n")


def test_the_prompt_is_deep_by_default_or_for_own_text_the_start_of_a_line(capsys):
    Path("mine.txt").write_text("deep\nis\n")
    for options, prompt in [("", "deep"), ("--prompt=", ""), ("--data mine.txt", "")]:
        model, vocab, _ = main(["--epochs", "1", *options.split()])
        text = generate(prompt, model, vocab)
        assert f"\ntext      {text}" in capsys.readouterr().out


# ---------------------------------------------------------------- other ways in
@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """mini_gpt.py run as a script, and executed as by a notebook, without a __file__."""
    cell = ("exec(open('mini_gpt.py').read()); "
            "print(len(attention_weights), len(vocab.tokens), plt.get_fignums())")
    started = {}
    for name, arguments in {"script": ["mini_gpt.py", *OPTIONS],
                            "notebook": ["-c", cell, "-f", "kernel.json"]}.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(SCRIPT, folder)
        started[name] = folder, subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env={**os.environ, "PYTHONHASHSEED": "1"},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return {name: (folder, process, *process.communicate())
            for name, (folder, process) in started.items()}


def test_run_as_a_script_it_takes_options_draws_and_prints_the_same_as_main_whatever_the_hash_seed(
        processes, capsys):
    folder, process, out, err = processes["script"]
    main(OPTIONS)
    assert process.returncode == 0 and err == ""
    assert outcome(out) == outcome(capsys.readouterr().out)
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_pasted_into_a_notebook_it_runs_with_the_defaults_and_leaves_one_figure_to_show(processes):
    folder, process, out, err = processes["notebook"]
    assert process.returncode == 0 and err == ""
    assert "300/300" in out
    assert out.splitlines()[-1] == "2 17 [1]"  # a notebook shows an open figure, once


def test_imported_it_runs_nothing_prints_nothing_and_leaves_the_threads_alone(capsys):
    runpy.run_path(str(SCRIPT), run_name="mini_gpt")
    assert capsys.readouterr() == ("", "") and torch.get_num_threads() == 1
    assert not list(Path().iterdir())


# ---------------------------------------------------------------- the README
def results(options, capsys, old="", new=""):
    """What main returns with one edit made in a copy of the source, and what it prints."""
    source = SCRIPT.read_text(encoding="utf-8")
    assert not old or source.count(old) == 1
    edited = {"__name__": "edited"}
    exec(source.replace(old, new) if old else source, edited)
    edited["plot_attention"] = lambda *args, **kwargs: plt.figure()
    return edited["main"](options.split()), capsys.readouterr().out


def readme_cell(start):
    """The block of Python in the README that starts like this."""
    cell, = re.findall(rf"```python\n({re.escape(start)}.*?)```", README, flags=re.DOTALL)
    return cell


@pytest.fixture
def notebook(trained):
    """The names that are there in a notebook after the file has run in a cell."""
    names = {"__name__": "notebook"}
    exec(SCRIPT.read_text(encoding="utf-8"), names)
    with torch.no_grad():
        _, attention_weights = trained(torch.tensor([SEQUENCES[0][:-1]]))
    names.update(model=trained, vocab=VOCAB, attention_weights=attention_weights)
    return names


def test_the_readmes_first_cell_completes_and_draws(notebook, capsys):
    exec(readme_cell("torch.set_num_threads(1)"), notebook)
    assert capsys.readouterr().out.strip() in SENTENCES
    assert panels()[0].get_title() == "layer 1, head 0" and labels(panels()[0].xaxis)[1] == "deep"


def test_the_readmes_parameters_add_up_to_those_of_the_model(trained):
    terms, total = re.search(r"In all ([\d,+ ]+) = ([\d,]+) parameters", README).groups()
    parts = [trained.token_embedding, trained.position_embedding, trained.blocks, trained.norm,
             trained.head]
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert terms == " + ".join(f"{count:,}" for count in counts) and total == f"{sum(counts):,}"


def test_experiment_1_the_loss_settles_on_the_floor_and_dives_below_without_the_mask(notebook):
    mask = notebook["causal_mask"]
    exec(readme_cell("def losses_under"), notebook)
    with_mask, without, floor = (line.get_ydata() for line in plt.gca().get_lines())
    assert Path("loss.png").exists() and notebook["causal_mask"] is mask
    assert floor[0] == pytest.approx(0.3584, abs=1e-4)
    assert len(with_mask) == len(without) == 300 and abs(with_mask[0] - without[0]) < 0.1
    assert floor[0] < sum(with_mask[-30:]) / 30 < floor[0] + 0.05
    assert sum(without[-30:]) / 30 < floor[0] / 5


def test_experiment_2_weights_worked_out_by_hand_are_those_of_the_model(notebook, capsys):
    exec(readme_cell("device ="), notebook)
    assert capsys.readouterr().out.startswith("True [1.")
    assert notebook["weights"][0].tolist() == [1, 0, 0, 0, 0]


def test_experiment_3_next_word_probabilities_are_near_the_counts(notebook, capsys):
    exec(readme_cell("ids = torch"), {**notebook, "device": "cpu"})
    words, probabilities = zip(*(line.split() for line in capsys.readouterr().out.splitlines()))
    assert words == ("deep", "learning", "is", "powerful", DELIMITER)
    assert [*map(float, probabilities)] == pytest.approx([3 / 6, 2 / 3, 2 / 2, 1 / 2, 1], abs=0.06)


@pytest.mark.parametrize("rate", ["0.003", "0.01"])
def test_experiment_4_a_gpt_copies_what_an_lstm_cannot_carry(rate, notebook, capsys):
    cell = readme_cell("import random").replace("0.003", rate)
    for slow, quick in [("k=16", "k=10"), ("badcafefeedhagge", "badcafefee"), (", 34)", ", 22)"),
                        ("--epochs 15", "--epochs 8"), ("epochs=15", "epochs=8")]:
        assert cell.count(slow) == 1
        cell = cell.replace(slow, quick)
    exec(cell, notebook)
    gpt, lstm = re.findall(r"(\d+) of 50", capsys.readouterr().out)
    assert int(gpt) >= 48 and int(lstm) <= 10
    diagonals = [cells(ax).filled(0.0)[11:21, 1:11].diagonal() for ax in panels()]
    assert max(diagonal.mean() for diagonal in diagonals) > 0.5  # some head copies


@pytest.mark.parametrize("old, new, options, before, after", [
    ("self.token_embedding(idx) + self.position_embedding(positions)", "self.token_embedding(idx)",
     "--data order.txt --layers 1", (0.11, 0.14), (0.23, 0.26)),
    ("x = x + self.dropout(attended)", "x = x",
     "--data order.txt --layers 1", (0.11, 0.14), (0.3, 0.5)),
    ("x = x + self.dropout(attended)", "x = self.dropout(attended)", "--layers 12 --epochs 60",
     (0.35, 1.0), (2.5, 3.0)),
    ("x = x + self.dropout(attended)", "x = x", "", (0.36, 0.39), (0.36, 0.39)),
    (" / math.sqrt(head_size)", "", "", (0.36, 0.39), (0.36, 0.39)),
    ('scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))', "", "", (0.36, 0.39),
     (0.0, 0.04)),
], ids=["order", "past", "depth", "past not needed", "scale not needed", "answers"])
def test_the_readmes_edits_change_the_loss_as_it_says(old, new, options, before, after, capsys):
    assert not options or f"| `{old}` → `{new}` | `{options}` |" in README
    Path("order.txt").write_text("dog bites man : sad\nman bites dog : funny\n")
    (_, _, attention_weights), printed = results(options, capsys)
    assert before[0] < figures(printed, "training")[0] < before[1]
    _, printed = results(options, capsys, old, new)
    assert after[0] < figures(printed, "training")[0] < after[1]
    if "order" in options:  # at the colon, some head looks at a word that tells the order
        assert attention_weights[0][0, :, 4, [1, 3]].max() > 0.9


def test_experiment_5_without_layernorm_a_high_learning_rate_fails_and_it_is_put_back(
        notebook, capsys):
    norm = nn.LayerNorm
    main("--lr 0.05".split())
    exec(readme_cell("real_norm"), notebook)
    with_it, without = re.findall(r"training  loss (\S+),", capsys.readouterr().out)
    assert float(with_it) < 0.4 and float(without) > math.log(17) and nn.LayerNorm is norm
