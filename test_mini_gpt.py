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

import matplotlib

matplotlib.use("Agg")  # no windows, also where there is a screen

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import mini_gpt
from mini_gpt import (DELIMITER, SENTENCES, GPTBlock, MaskedSelfAttention, MiniGPT, MiniLSTM, Vocab,
                      causal_mask, count_predictions, entropy_floor, evaluate, generate, main,
                      make_sequences, next_token_loss, plot_attention, sampling_probabilities, train)

SCRIPT = Path(mini_gpt.__file__).resolve()
README = SCRIPT.with_name("README.md").read_text(encoding="utf-8")
VOCAB = Vocab(SENTENCES)
SEQUENCES = make_sequences(SENTENCES, VOCAB, context_length=6)


@pytest.fixture(autouse=True)
def tidy(tmp_path, monkeypatch):
    """Each test in an empty folder, with the same random numbers; no figure outlives it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yield
    plt.close("all")


def trained_by_default():
    torch.manual_seed(mini_gpt.SEED)
    model = MiniGPT(len(VOCAB), context_length=6)
    train(model, SEQUENCES)
    return model.eval()


@pytest.fixture(scope="session")
def trained():
    """One model, trained once with the default hyperparameters, for all tests that look and don't touch."""
    return trained_by_default()


def small_gpt(**changes):
    """Untrained, in eval mode, its weights large enough that every part of it makes a difference."""
    model = MiniGPT(**{"vocab_size": 11, "context_length": 8, "embed_dim": 16, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def floor_by_definition(sequences):
    """For each prefix that occurs, the entropy of what follows it, averaged over predicted tokens."""
    followers = defaultdict(Counter)
    for sequence in sequences:
        for t in range(1, len(sequence)):
            followers[tuple(sequence[:t])][sequence[t]] += 1
    nats = sum(-n * math.log(n / sum(counts.values()))
               for counts in followers.values() for n in counts.values())
    return nats / sum(sum(counts.values()) for counts in followers.values())


# ---------------------------------------------------------------- text becomes tokens


def test_the_vocabulary_is_the_delimiter_and_then_each_word_once():
    assert VOCAB.tokens[0] == DELIMITER == "<|endoftext|>"
    assert sorted(VOCAB.tokens[1:]) == sorted({word for line in SENTENCES for word in line.split()})
    assert len(VOCAB) == len(VOCAB.tokens) == 17


@pytest.mark.parametrize("sentence", SENTENCES)
def test_decode_undoes_encode(sentence):
    ids = VOCAB.encode(sentence)
    assert len(ids) == len(sentence.split()) and 0 not in ids
    assert VOCAB.decode(ids) == sentence


def test_tokens_can_be_characters():
    vocab = Vocab(["to be", "or"], chars=True)
    assert vocab.tokens == [DELIMITER, " ", "b", "e", "o", "r", "t"]
    assert vocab.decode(vocab.encode("be or  ")) == "be or  "


def test_an_unknown_token_is_refused_by_name():
    with pytest.raises(ValueError, match="'zebra'"):
        VOCAB.encode("deep zebra learning")
    with pytest.raises(ValueError, match="'q'"):
        Vocab(SENTENCES, chars=True).encode("deep q")


def test_a_word_that_is_known_in_another_case_is_pointed_out():
    with pytest.raises(ValueError, match="'Deep'.*'deep'.*case"):
        VOCAB.encode("Deep learning")


@pytest.mark.parametrize("text", ["<|endoftext|>", "deep <|endoftext|> learning", "deep<|endoftext|>"])
def test_text_cannot_smuggle_in_the_delimiter(text):
    with pytest.raises(ValueError, match="endoftext"):
        VOCAB.encode(text)
    with pytest.raises(ValueError, match="endoftext"):
        Vocab(SENTENCES + [text])
    with pytest.raises(ValueError, match="endoftext"):
        Vocab(SENTENCES + [text], chars=True)


def test_a_delimiter_opens_and_closes_every_line():
    assert SEQUENCES[0] == [0, *VOCAB.encode("deep learning is powerful"), 0]
    assert len(SEQUENCES) == 6 and count_predictions(SEQUENCES) == 30


@pytest.mark.parametrize("context_length", [1, 2, 3, 5, 6, 7])
def test_lines_longer_than_the_context_are_cut_so_that_each_token_is_predicted_once(context_length):
    pieces = make_sequences(SENTENCES, VOCAB, context_length)
    assert all(2 <= len(piece) <= context_length + 1 for piece in pieces)
    rebuilt = []
    for piece in pieces:
        if piece[0] == 0:
            rebuilt.append([0])
        assert piece[0] == rebuilt[-1][-1]  # a piece starts with the token that the one before ended with
        rebuilt[-1] += piece[1:]
    assert rebuilt == SEQUENCES


# ---------------------------------------------------------------- tokens attend to each other


def test_the_mask_forbids_exactly_the_future():
    mask = causal_mask(5)
    assert mask.dtype == torch.bool
    assert all(mask[t, s] == (s > t) for t in range(5) for s in range(5))


@pytest.mark.parametrize("B, T, C, H", [(1, 1, 8, 1), (2, 5, 32, 4), (3, 7, 12, 3)])
def test_shapes_of_attention_and_block(B, T, C, H):
    x = torch.randn(B, T, C)
    for layer in (MaskedSelfAttention(C, H, 0.1), GPTBlock(C, H, 0.1)):
        out, weights = layer(x)
        assert out.shape == (B, T, C) and weights.shape == (B, H, T, T)


def test_attention_weights_are_zero_on_the_future_and_each_row_sums_to_one():
    attention = MaskedSelfAttention(32, 4, dropout=0.5)  # the weights returned are those before dropout
    _, weights = attention(torch.randn(3, 7, 32))
    assert (weights[..., causal_mask(7)] == 0).all() and (weights[..., ~causal_mask(7)] > 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 7))


@pytest.mark.parametrize("H", [1, 4])
def test_attention_equals_pytorchs_own(H):
    x = torch.randn(2, 6, 32)
    attention = MaskedSelfAttention(32, H, dropout=0.0)
    out, _ = attention(x)
    q, k, v = (part.view(2, 6, H, 32 // H).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 6, 32)
    torch.testing.assert_close(out, attention.projection(expected), rtol=0, atol=1e-5)


def test_attention_weights_are_the_softmax_of_scores_over_the_root_of_the_head_size():
    attention, x = MaskedSelfAttention(32, 2, dropout=0.0), torch.randn(1, 3, 32)
    q, k, _ = attention.qkv(x).chunk(3, dim=-1)
    for head, channels in enumerate([slice(0, 16), slice(16, 32)]):
        scores = q[0, 2, channels] @ k[0, :, channels].T / 4  # the last token attends to all three
        torch.testing.assert_close(attention(x)[1][0, head, 2], scores.softmax(dim=-1))


def test_dropout_acts_on_the_attention_weights_in_the_feed_forward_network_and_on_both_residual_branches():
    block, dropped = GPTBlock(32, 4, dropout=0.3), []
    for module in block.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.3
            module.register_forward_hook(lambda module, args, out: dropped.append(tuple(args[0].shape)))
    block(torch.randn(2, 5, 32))
    assert dropped == [(2, 4, 5, 5), (2, 5, 32), (2, 5, 128), (2, 5, 32)]


def silenced(*layers):
    """A block in which these layers put out zeros."""
    block = GPTBlock(32, 4, dropout=0.0)
    for layer in layers:
        module = {"attention": block.attention.projection, "feed_forward": block.feed_forward[-1]}[layer]
        nn.init.zeros_(module.weight), nn.init.zeros_(module.bias)
    return block


def test_the_residual_connections_pass_on_the_input_of_a_block_that_has_nothing_to_add():
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(silenced("attention", "feed_forward")(x)[0], x)


@pytest.mark.parametrize("other", ["attention", "feed_forward"])
def test_layernorm_comes_first_so_that_what_is_added_does_not_depend_on_the_scale_of_the_input(other):
    block, x = silenced(other), torch.randn(2, 5, 32)
    torch.testing.assert_close(block(10 * x)[0] - 10 * x, block(x)[0] - x, rtol=0, atol=1e-3)


def test_the_feed_forward_network_is_four_times_as_wide_with_an_exact_gelu():
    network, x = GPTBlock(32, 4, dropout=0.0).feed_forward, torch.randn(2, 5, 32)
    widened = x @ network[0].weight.T + network[0].bias
    gelu = widened * (1 + torch.erf(widened / math.sqrt(2))) / 2
    assert widened.shape == (2, 5, 128)
    torch.testing.assert_close(network(x), gelu @ network[3].weight.T + network[3].bias, rtol=0, atol=1e-6)


def pytorch_layer(block):
    """PyTorch's own pre-LN block of the same shape; on an encoder layer, a causal mask makes it GPT's."""
    C = block.norm1.normalized_shape[0]
    return nn.TransformerEncoderLayer(C, block.attention.num_heads, dim_feedforward=4 * C, dropout=0.0,
                                      activation="gelu", batch_first=True, norm_first=True)


def copy_weights(ours, theirs):
    names = {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.projection.",
             "linear1.": "feed_forward.0.", "linear2.": "feed_forward.3.", "norm1.": "norm1.", "norm2.": "norm2."}
    state = ours.state_dict()
    theirs.load_state_dict({their_name + kind: state[our_name + kind]
                            for their_name, our_name in names.items() for kind in ("weight", "bias")})


def test_block_equals_pytorchs_pre_norm_encoder_layer_with_a_causal_mask():
    block = GPTBlock(32, 4, dropout=0.0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs = pytorch_layer(block)
    copy_weights(block, theirs)
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(block(x)[0], theirs(x, src_mask=causal_mask(6)), rtol=0, atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="32.*5"):
        MaskedSelfAttention(32, 5, 0.1)


# ---------------------------------------------------------------- tokens become predictions


@pytest.mark.parametrize("B, T, H, L", [(1, 1, 1, 1), (2, 5, 4, 2), (3, 8, 2, 3)])
def test_shapes_of_the_model(B, T, H, L):
    model = MiniGPT(vocab_size=11, context_length=8, embed_dim=16, num_heads=H, num_layers=L)
    logits, attention_weights = model(torch.randint(11, (B, T)))
    assert logits.shape == (B, T, 11)
    assert [tuple(weights.shape) for weights in attention_weights] == [(B, H, T, T)] * L


def test_changing_a_later_token_changes_no_earlier_logit():
    model, idx = small_gpt(), torch.randint(11, (1, 8))
    before, _ = model(idx)
    for t in range(1, 8):
        changed = idx.clone()
        changed[0, t] = (changed[0, t] + 1) % 11
        after, _ = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
        assert not torch.allclose(after[:, t:], before[:, t:], atol=1e-3)


def test_no_gradient_flows_from_a_logit_to_a_later_embedding():
    model, embedded = small_gpt(), []
    model.token_embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits, _ = model(torch.randint(11, (2, 8)))
    for t in range(8):
        gradient, = torch.autograd.grad(logits[:, t].sum(), embedded[0], retain_graph=True)
        assert (gradient[:, t + 1:] == 0).all()
        assert (gradient[:, :t + 1] != 0).any(dim=-1).all()  # but every earlier token has a say


def test_padding_on_the_right_changes_no_real_logit():
    model, idx = small_gpt(), torch.randint(11, (2, 5))
    padded = torch.cat([idx, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(model(padded)[0][:, :5], model(idx)[0], rtol=0, atol=1e-5)


def test_more_tokens_than_the_context_holds_are_refused():
    with pytest.raises(ValueError, match="9 tokens.*8"):
        small_gpt()(torch.zeros(1, 9, dtype=torch.long))


def test_the_model_is_embeddings_then_pytorchs_encoder_then_a_norm_and_a_projection():
    model, idx = small_gpt(num_layers=2), torch.randint(11, (2, 8))
    encoder = nn.TransformerEncoder(pytorch_layer(model.blocks[0]), num_layers=2, norm=model.norm,
                                    enable_nested_tensor=False)
    for theirs, ours in zip(encoder.layers, model.blocks):
        copy_weights(ours, theirs)
    x = model.token_embedding.weight[idx] + model.position_embedding.weight[:8]
    expected = model.head(encoder(x, mask=causal_mask(8)))
    torch.testing.assert_close(model(idx)[0], expected, rtol=1e-4, atol=1e-4)


def inputs_of(module, model, idx):
    """What goes into one module when the model is called."""
    inputs = []
    module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    model(idx)
    return inputs[0]


def test_a_token_enters_as_its_own_embedding_plus_that_of_its_position():
    model, idx = small_gpt(), torch.tensor([[5, 3, 5]])
    expected = model.token_embedding.weight[[5, 3, 5]] + model.position_embedding.weight[[0, 1, 2]]
    torch.testing.assert_close(inputs_of(model.blocks[0], model, idx)[0], expected)


def test_a_layernorm_comes_last_before_the_projection():
    model = MiniGPT(vocab_size=11, context_length=8)
    x = inputs_of(model.head, model, torch.randint(11, (2, 8)))
    torch.testing.assert_close(x.mean(dim=-1), torch.zeros(2, 8), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.var(dim=-1, correction=0), torch.ones(2, 8), rtol=0, atol=1e-3)


def test_the_order_of_the_words_before_matters():
    model = small_gpt(num_layers=1)  # with more layers, the mask alone gives the order away
    (one_way, _), (other_way, _) = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(one_way[0, -1], other_way[0, -1], atol=1e-2)


def test_a_deep_model_learns_in_every_weight_from_one_step():
    model = MiniGPT(len(VOCAB), 6, embed_dim=24, num_heads=12, num_layers=12)
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, SEQUENCES, epochs=1)
    assert all((a != b).any() for a, b in zip(before, model.parameters()))


def test_the_lstm_has_the_shapes_of_the_gpt_and_no_attention():
    logits, attention_weights = MiniLSTM(vocab_size=11)(torch.randint(11, (2, 5)))
    assert logits.shape == (2, 5, 11) and attention_weights == []


def test_the_lstm_cannot_see_the_future_either():
    model, idx = MiniLSTM(vocab_size=11).eval(), torch.randint(11, (1, 8))
    changed = idx.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 11
    before, after = model(idx)[0], model(changed)[0]
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert (after[:, 5:] != before[:, 5:]).any(dim=-1).all()


@pytest.mark.parametrize("shape", [{}, {"embed_dim": 64, "num_layers": 4}])
def test_the_lstm_has_about_as_many_weights_as_the_gpt(shape):
    gpt, lstm = (sum(parameter.numel() for parameter in model.parameters())
                 for model in (MiniGPT(len(VOCAB), 6, **shape), MiniLSTM(len(VOCAB), **shape)))
    assert lstm == pytest.approx(gpt, rel=0.1)


# ---------------------------------------------------------------- predictions become a loss


def test_the_loss_is_the_mean_surprise_at_each_next_token_and_padding_is_not_counted():
    model, sequences = small_gpt(), [[0, 5, 3, 9, 0], [0, 7, 0]]
    surprises = []
    for sequence in sequences:
        for t in range(1, len(sequence)):
            logits, _ = model(torch.tensor([sequence[:t]]))
            surprises.append(-F.log_softmax(logits[0, -1], dim=-1)[sequence[t]].item())
    expected = pytest.approx(sum(surprises) / 6, abs=1e-5)
    assert next_token_loss(model, sequences).item() == expected
    assert evaluate(model, sequences) == expected
    assert evaluate(model, sequences, batch_size=1) == expected  # a mean over tokens, not over batches


def test_a_batch_is_padded_to_its_own_longest_line_only():
    model, widths = small_gpt(), []
    model.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape))
    evaluate(model, [[0, 1, 0], [0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6, 0]], batch_size=2)
    assert widths == [(2, 3), (1, 7)]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_without_dropout_and_leaves_the_models_mode_alone(training):
    model = MiniGPT(len(VOCAB), 6, dropout=0.5).train(training)
    assert evaluate(model, SEQUENCES) == evaluate(model, SEQUENCES)
    assert model.training is training


def test_a_model_that_has_learned_nothing_has_the_perplexity_of_the_vocabularys_size():
    model = MiniGPT(len(VOCAB), 6)
    nn.init.zeros_(model.head.weight), nn.init.zeros_(model.head.bias)
    assert math.exp(evaluate(model, SEQUENCES)) == pytest.approx(17)


def test_the_entropy_floor_of_an_example_worked_by_hand():
    # After 0: 1, 1, 2 (twice surprising by log 3/2, once by log 3). After 0 1: 0 or 3, even odds. The rest is certain.
    sequences = [[0, 1, 0], [0, 1, 3, 0], [0, 2, 0]]
    assert entropy_floor(sequences) == pytest.approx((2 * math.log(3 / 2) + math.log(3) + 2 * math.log(2)) / 7)


@pytest.mark.parametrize("context_length", [3, 100])
def test_the_entropy_floor_is_the_mean_entropy_of_what_follows_each_prefix(context_length):
    words = random.Random(0)
    lines = [" ".join(words.choices("abc", k=words.randint(1, 7))) for _ in range(200)]
    sequences = make_sequences(lines, Vocab(lines), context_length)
    assert entropy_floor(sequences) == pytest.approx(floor_by_definition(sequences))


# ---------------------------------------------------------------- the loss becomes learning


def test_training_overfits_the_sentences_down_to_their_entropy_floor_and_not_below(trained):
    floor = entropy_floor(SEQUENCES)
    assert floor < evaluate(trained, SEQUENCES) < floor + 0.03


def test_without_its_mask_the_model_gets_below_the_floor_by_reading_the_answers(monkeypatch):
    monkeypatch.setattr(mini_gpt, "causal_mask", lambda T, device=None: torch.zeros(T, T, dtype=torch.bool))
    assert evaluate(trained_by_default(), SEQUENCES) < entropy_floor(SEQUENCES)


def test_after_deep_comes_learning_in_two_of_three_sentences(trained):
    logits, _ = trained(torch.tensor([[0, *VOCAB.encode("deep")]]))
    learning, = VOCAB.encode("learning")
    assert F.softmax(logits[0, -1], dim=-1)[learning].item() == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("first_word", ["", *sorted({sentence.split()[0] for sentence in SENTENCES})])
def test_every_first_word_is_completed_to_one_of_the_sentences(trained, first_word):
    assert generate(first_word, trained, VOCAB) in SENTENCES


def test_training_again_with_the_same_seed_gives_the_same_model(trained):
    for ours, theirs in zip(trained.parameters(), trained_by_default().parameters()):
        assert torch.equal(ours, theirs)


def test_an_epoch_sees_every_sequence_once_in_a_shuffled_order(monkeypatch):
    seen = []
    monkeypatch.setattr(mini_gpt, "next_token_loss",
                        lambda model, batch: seen.extend(batch) or next_token_loss(model, batch))
    train(MiniGPT(len(VOCAB), 6), SEQUENCES, epochs=2, batch_size=4)
    first, second = seen[:6], seen[6:]
    assert sorted(first) == sorted(second) == sorted(SEQUENCES)
    assert first != second


def test_progress_is_ten_lines_and_in_a_terminal_also_a_live_line(monkeypatch, capsys):
    def printed():
        train(MiniGPT(len(VOCAB), 6), SEQUENCES, epochs=30)
        return capsys.readouterr().out

    monkeypatch.setattr(mini_gpt.time, "perf_counter", itertools.count(step=2).__next__)  # slow enough
    assert printed().count("loss") == 10
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    live = [line for line in printed().splitlines(keepends=True) if line.endswith("\r")]
    assert len(live) == 20 and all("tokens/s" in line and "s left" in line for line in live)


def test_the_losses_printed_are_the_means_since_the_line_before(capsys):
    losses, _ = train(MiniGPT(len(VOCAB), 6), SEQUENCES, epochs=20)
    printed = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert printed == pytest.approx([(a + b) / 2 for a, b in zip(losses[::2], losses[1::2])], abs=1e-4)


def test_a_loss_that_is_no_number_stops_training():
    model = MiniGPT(len(VOCAB), 6)
    nn.init.constant_(model.head.bias, math.nan)
    with pytest.raises(FloatingPointError, match="nan at step 1.*learning rate"):
        train(model, SEQUENCES)


@pytest.mark.usefixtures("undrawn")
def test_the_gpt_and_the_lstm_learn_from_the_same_batches(monkeypatch):
    seen = defaultdict(list)
    monkeypatch.setattr(mini_gpt, "next_token_loss", lambda model, batch: (
        seen[type(model)].append(batch) if model.training else None) or next_token_loss(model, batch))
    main("--compare-lstm --epochs 3 --batch-size 2".split())
    assert len(seen[MiniGPT]) == 9 and seen[MiniGPT] == seen[MiniLSTM]


# ---------------------------------------------------------------- learning becomes text


LOGITS = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()


def test_temperature_divides_the_logits():
    for temperature in (0.5, 1.0, 3.0):
        torch.testing.assert_close(sampling_probabilities(LOGITS, temperature), F.softmax(LOGITS / temperature, dim=0))


def test_the_higher_the_temperature_the_higher_the_entropy():
    entropies = [torch.distributions.Categorical(sampling_probabilities(LOGITS, temperature)).entropy()
                 for temperature in (0.1, 0.5, 1.0, 2.0, 100.0)]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.1 and entropies[-1] == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize("options, kept", [
    ({}, {0, 1, 2, 3}),
    ({"top_k": 1}, {1}), ({"top_k": 2}, {1, 3}), ({"top_k": 3}, {0, 1, 3}), ({"top_k": 9}, {0, 1, 2, 3}),
    ({"top_p": 1e-9}, {1}), ({"top_p": 0.49}, {1}), ({"top_p": 0.51}, {1, 3}), ({"top_p": 0.79}, {1, 3}),
    ({"top_p": 0.81}, {0, 1, 3}), ({"top_p": 0.96}, {0, 1, 2, 3}), ({"top_p": 1.0}, {0, 1, 2, 3}),
    ({"top_k": 2, "top_p": 0.6}, {1}),  # of the two that top_k leaves, the first has 0.5 / 0.8
    ({"top_k": 2, "top_p": 0.7}, {1, 3}), ({"top_k": 1, "top_p": 0.9}, {1}),
])
def test_top_k_and_top_p_keep_exactly_the_likeliest_tokens(options, kept):
    probabilities = sampling_probabilities(LOGITS, **options)
    assert set(probabilities.nonzero().flatten().tolist()) == kept
    expected = torch.tensor([LOGITS[i].exp() if i in kept else 0.0 for i in range(4)])
    torch.testing.assert_close(probabilities, expected / expected.sum())


def test_top_p_stops_at_the_token_that_reaches_it_exactly():
    tenths = torch.full((10,), 0.1).log()
    for k in range(1, 11):
        assert (sampling_probabilities(tenths, top_p=k / 10) > 0).sum() == k


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_k": -1},
                                 {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(ValueError, match="sampling"):
        generate("deep", MiniGPT(len(VOCAB), 6), VOCAB, **{"temperature": 1.0, **bad})


class Scripted(nn.Module):
    """Stands in for a model: after n tokens the likeliest next one is script[n - 1]."""

    def __init__(self, script, context_length=100):
        super().__init__()
        self.script, self.context_length, self.seen = script, context_length, []
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, idx):
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append(idx[0].tolist())
        logits = torch.zeros(*idx.shape, len(VOCAB))
        logits[0, -1, self.script[len(self.seen) - 1]] = 1
        return logits, []


def test_generation_stops_at_the_delimiter():
    deep, learning, fun = VOCAB.encode("deep learning fun")
    model = Scripted([learning, 0, fun])
    assert generate("deep", model, VOCAB) == "deep learning"
    assert model.seen == [[0, deep], [0, deep, learning]]


def test_generation_stops_after_max_new_tokens():
    assert generate("deep", Scripted(VOCAB.encode("is is is is")), VOCAB, max_new_tokens=3) == "deep is is is"


def test_generation_from_nothing_starts_at_the_delimiter():
    model = Scripted([*VOCAB.encode("fun"), 0])
    assert generate("", model, VOCAB) == "fun"
    assert model.seen[0] == [0]


def test_generation_goes_on_beyond_the_context_and_shows_the_model_its_end():
    model = Scripted(VOCAB.encode("is all you need"), context_length=3)
    assert generate("attention", model, VOCAB, max_new_tokens=4) == "attention is all you need"
    assert model.seen[-1] == VOCAB.encode("is all you")
    real = MiniGPT(len(VOCAB), context_length=2)
    generate("attention is all you need", real, VOCAB, max_new_tokens=10)  # and does not crash


def test_greedy_is_the_default_and_top_k_1_is_greedy_at_any_temperature(trained):
    for prompt in ("", "deep", "transformers"):
        assert generate(prompt, trained, VOCAB) == generate(prompt, trained, VOCAB, temperature=5.0, top_k=1)


def test_samples_follow_the_odds_of_the_sentences(trained):
    samples = Counter(generate("deep learning is", trained, VOCAB, temperature=1.0, top_p=0.9) for _ in range(200))
    assert set(samples) == {"deep learning is powerful", "deep learning is fun"}
    assert 60 < samples["deep learning is fun"] < 140


def test_the_same_seed_samples_the_same_text():
    model, texts = MiniGPT(len(VOCAB), 6), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(generate("", model, VOCAB, temperature=1.0))
    assert texts[0] == texts[1] != texts[2]


def test_the_lstm_generates_too_and_beyond_any_context():
    text = generate("deep", MiniLSTM(len(VOCAB)), VOCAB, max_new_tokens=3)
    assert text.startswith("deep")


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_in_the_mode_in_which_it_found_it(training):
    model = MiniGPT(len(VOCAB), 6).train(training)
    generate("deep", model, VOCAB)
    assert model.training is training
    with pytest.raises(ValueError):
        generate("zebra", model, VOCAB)
    assert model.training is training


# ---------------------------------------------------------------- learning becomes a picture


def some_weights(L=2, B=1, H=3, T=4):
    scores = torch.randn(L, B, H, T, T).masked_fill(causal_mask(T), float("-inf"))
    return list(scores.softmax(dim=-1))


def panels(figure):
    return [ax for ax in figure.axes if ax.get_title()]


def test_the_picture_has_a_titled_panel_per_head_with_a_cell_per_pair_of_tokens():
    weights = some_weights()
    figure = plot_attention(weights, layer=1, tokens=["a", "$b$", "c", "d"])
    assert [ax.get_title() for ax in panels(figure)] == [f"layer 1, head {h}" for h in range(3)]
    for head, ax in enumerate(panels(figure)):
        cells = ax.collections[0].get_array().reshape(4, 4)
        assert (cells.mask == causal_mask(4).numpy()).all()  # the future is blank
        shown = torch.tensor(cells.filled(0.0))
        torch.testing.assert_close(shown, weights[1][0, head], check_dtype=False)
        assert ax.collections[0].get_clim() == (0, 1)
        assert [text.get_text() for text in ax.texts] == [f"{w:.2f}" for w in shown[~causal_mask(4)]]
    figure.savefig("picture.png")


def test_the_pictures_axes_show_words_from_top_to_bottom_and_from_left_to_right():
    ax, *others = panels(plot_attention(some_weights(), tokens=["a", "b", "c", "d"]))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c", "d"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c", "d"]
    assert ax.yaxis_inverted() and not ax.xaxis_inverted()


def test_without_words_the_pictures_axes_show_positions():
    ax, *_ = panels(plot_attention(some_weights()))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "3"]


def test_a_picture_of_many_tokens_has_no_room_for_numbers():
    ax, *_ = panels(plot_attention(some_weights(H=1, T=30)))
    assert not ax.texts


@pytest.mark.parametrize("layer", [2, -1])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ValueError, match=f"layer {layer}"):
        plot_attention(some_weights(), layer=layer)


def test_words_that_do_not_fit_the_weights_are_refused():
    with pytest.raises(ValueError, match="3 tokens.*4"):
        plot_attention(some_weights(), tokens=["a", "b", "c"])


# ---------------------------------------------------------------- the command line, and other ways in


@pytest.fixture
def undrawn(monkeypatch):
    """For tests that don't look at the picture: an empty one is quicker."""
    monkeypatch.setattr(mini_gpt, "plot_attention", lambda *args, **kwargs: plt.figure())


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """mini_gpt.py run as a script, and executed as by a notebook: no __file__, and options that aren't ours."""
    cell = ("exec(open('mini_gpt.py').read()); "
            "print(type(model).__name__, len(vocab), len(attention_weights), plt.get_fignums())")
    started = {}
    for name, arguments in {"script": ["mini_gpt.py"], "notebook": ["-c", cell, "-f", "kernel.json"]}.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(SCRIPT, folder)
        started[name] = folder, subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return {name: (folder, process, *process.communicate()) for name, (folder, process) in started.items()}


def test_run_as_a_script_it_learns_completes_deep_and_draws(processes):
    folder, process, out, err = processes["script"]
    assert process.returncode == 0 and err == ""
    lines = out.splitlines()
    assert sum(line.startswith("epoch") and "loss" in line for line in lines) == 10
    assert "text      deep learning is powerful" in lines
    assert lines[-1] == "picture   attention.png"
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_pasted_into_a_notebook_it_runs_with_the_defaults_and_leaves_one_figure_to_show(processes):
    folder, process, out, err = processes["notebook"]
    assert process.returncode == 0 and err == ""
    assert "300/300" in out
    assert out.splitlines()[-1] == "MiniGPT 17 2 [1]"  # a notebook shows a figure that is open, once


def test_percent_run_in_a_notebook_takes_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mini_gpt.py", "--epochs", "3"])
    namespace = runpy.run_path(str(SCRIPT), run_name="__main__")
    assert {"model", "vocab", "attention_weights"} <= namespace.keys()
    assert "3/3" in capsys.readouterr().out


def test_imported_it_runs_nothing_and_prints_nothing(capsys):
    runpy.run_path(str(SCRIPT), run_name="mini_gpt")
    assert capsys.readouterr() == ("", "")
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("undrawn")
def test_main_in_a_kernel_that_imported_the_file_leaves_the_kernels_options_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(mini_gpt, "EPOCHS", 1)
    main()


def test_main_returns_and_draws_the_attention_of_the_completed_text():
    model, vocab, attention_weights = main(["--epochs", "1"])
    words = [DELIMITER, *generate("deep", model, vocab).split()][-model.context_length:]
    assert [label.get_text() for label in panels(plt.gcf())[0].get_yticklabels()] == words
    expected = model.eval()(torch.tensor([[vocab.tokens.index(word) for word in words]]))[1]
    for weights, again in zip(attention_weights, expected, strict=True):
        torch.testing.assert_close(weights, again)


def test_no_window_is_opened(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("a window would wait for the reader"))
    main(["--epochs", "1"])


@pytest.mark.usefixtures("undrawn")
def test_same_seed_same_output_and_another_seed_another_model(capsys):
    def run(seed):
        model, _, _ = main(["--epochs", "5", "--seed", seed])
        printed = [line for line in capsys.readouterr().out.splitlines() if "per second" not in line]
        return printed, torch.cat([parameter.flatten() for parameter in model.parameters()])

    (printed, weights), (printed_again, weights_again), (_, other_weights) = run("7"), run("7"), run("8")
    assert printed == printed_again and torch.equal(weights, weights_again)
    assert not torch.equal(weights, other_weights)


def test_options_reach_the_model(capsys):
    model, _, attention_weights = main("--epochs 2 --batch-size 4 --embed-dim 24 --heads 3 --layers 1 --dropout 0 "
                                       "--lr 0.01 --prompt transformers --max-new-tokens 2 --plot picture.svg".split())
    assert model.token_embedding.embedding_dim == 24 and len(model.blocks) == 1
    assert attention_weights[0].shape[1] == 3
    assert model.blocks[0].dropout.p == 0
    printed = capsys.readouterr().out
    assert "4/4" in printed and "transformers" in printed
    assert Path("picture.svg").exists()


@pytest.mark.parametrize("device, is_here", [("cpu", True), ("cuda", torch.cuda.is_available()),
                                             ("mps", torch.backends.mps.is_available())])
@pytest.mark.usefixtures("undrawn")
def test_each_device_computes_or_is_refused_where_it_is_missing(device, is_here, capsys):
    options = ["--device", device, "--epochs", "2", "--compare-lstm", "--temperature", "1", "--top-p", "0.9"]
    if is_here:
        model, _, attention_weights = main(options)
        assert next(model.parameters()).device.type == attention_weights[0].device.type == device
    else:
        with pytest.raises(SystemExit):
            main(options)
        assert f"'{device}' (choose from" in capsys.readouterr().err


def figures(printed, name):
    """The numbers in the line of the output that starts with this name."""
    line, *_ = [line for line in printed.splitlines() if line.startswith(name + " ")]
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


@pytest.mark.usefixtures("undrawn")
def test_loss_perplexity_and_floor_are_printed_after_training(capsys):
    model, _, _ = main(["--epochs", "20"])
    printed = capsys.readouterr().out
    loss, perplexity = figures(printed, "training")
    assert loss == pytest.approx(evaluate(model, SEQUENCES), abs=1e-4)
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-2)
    assert figures(printed, "floor")[0] == pytest.approx(entropy_floor(SEQUENCES), abs=1e-4)
    assert "held-out" not in printed


@pytest.mark.usefixtures("undrawn")
def test_own_text_is_read_without_blank_lines_byte_order_mark_or_carriage_returns(capsys):
    Path("mine.txt").write_bytes("\ufeffgrüß dich\r\n\r\n  \r\ndich auch\r\n".encode("utf-8"))
    _, vocab, _ = main("--data mine.txt --epochs 1".split())
    assert vocab.tokens == [DELIMITER, "auch", "dich", "grüß"]
    assert "data      2 lines, 6 tokens to predict, vocabulary of 4" in capsys.readouterr().out
    _, vocab, _ = main("--data mine.txt --chars --epochs 1".split())
    assert vocab.tokens == [DELIMITER, *sorted(set("grüß dichauch"))]


@pytest.mark.parametrize("options, context_length", [("", 128), ("--context 3", 3), ("--context 200", 200)])
@pytest.mark.usefixtures("undrawn")
def test_the_context_is_as_long_as_asked_or_as_the_longest_line_up_to_128(options, context_length):
    Path("mine.txt").write_text("a\n" + "b " * 500)
    model, _, _ = main(f"--data mine.txt --epochs 1 --max-new-tokens 1 {options}".split())
    assert model.context_length == context_length
    assert main(["--epochs", "1"])[0].context_length == 6


@pytest.mark.usefixtures("undrawn")
def test_held_out_lines_and_their_copies_are_never_trained_on(monkeypatch, capsys):
    numbers = [str(n) for n in range(40)]
    Path("mine.txt").write_text("\n".join(numbers + numbers[:10]))
    seen = {True: set(), False: set()}
    monkeypatch.setattr(mini_gpt, "next_token_loss", lambda model, batch: (
        seen[model.training].update(map(tuple, batch)) or next_token_loss(model, batch)))
    model, vocab, _ = main("--data mine.txt --holdout 0.25 --epochs 2".split())
    assert len(vocab) == 41  # the vocabulary comes from all lines
    trained_on, evaluated_on = seen[True], seen[False]
    assert len(trained_on) == 30 and len(evaluated_on) == 40
    held_out = [[0, *vocab.encode(line), 0] for line in numbers + numbers[:10]
                if (0, *vocab.encode(line), 0) not in trained_on]
    loss, perplexity = figures(capsys.readouterr().out, "held-out")
    assert loss == pytest.approx(evaluate(model, held_out), abs=1e-4)
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-2)


@pytest.mark.usefixtures("undrawn")
def test_the_seed_draws_what_is_held_out(monkeypatch):
    drawn = []
    monkeypatch.setattr(mini_gpt, "train", lambda model, sequences, *rest: drawn.append(sequences) or ([], 0.0))
    for seed in ("1", "1", "2"):
        main(["--holdout", "0.5", "--seed", seed])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.usefixtures("undrawn")
def test_samples_are_printed_one_a_line_and_those_not_in_the_data_are_marked_as_new(monkeypatch, capsys):
    texts = iter(["deep learning is fun", "deep fun"])
    monkeypatch.setattr(mini_gpt, "generate", lambda *args: next(texts))
    main("--epochs 1 --samples 2 --temperature 0.8".split())
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("text")] == [
        "text      deep learning is fun", "text      deep fun  (new)"]


@pytest.mark.usefixtures("undrawn")
def test_sampling_options_reach_the_generator(monkeypatch):
    monkeypatch.setattr(mini_gpt, "generate", lambda prompt, model, vocab, *options: asked.append((prompt, *options)) or "")
    asked = []
    main("--epochs 1 --prompt deep --max-new-tokens 7 --temperature 0.5 --top-k 3 --top-p 0.9".split())
    assert asked == [("deep", 7, 0.5, 3, 0.9)]


@pytest.mark.usefixtures("undrawn")
def test_the_comparison_is_one_aligned_table_of_both_models(capsys):
    main("--epochs 5 --compare-lstm --holdout 0.3".split())
    printed = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(printed) if line.split() == ["model", "MiniGPT", "MiniLSTM"])
    table = printed[start:-1]
    assert [line[:26].strip() for line in table] == [
        "model", "parameters", "training loss", "training perplexity", "held-out loss", "held-out perplexity",
        "seconds", "completion"]
    assert all(line[26:28] == line[54:56] == "  " and " " not in (line[28], line[56]) for line in table[:-1])
    for name in ("training", "held-out"):
        gpt, lstm = (line.split()[2] for line in printed if line.startswith(name + "  loss"))
        assert next(line for line in table if line.startswith(name + " loss")).split()[2:] == [gpt, lstm]


@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_ends_training_and_the_rest_goes_on(monkeypatch, capsys):
    calls = itertools.count(1)

    def interrupted(model, batch):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return next_token_loss(model, batch)

    monkeypatch.setattr(mini_gpt, "next_token_loss", interrupted)
    main([])
    printed = capsys.readouterr().out
    assert "stopped at step 3 of 300" in printed
    assert all(f"\n{line} " in printed for line in ("training", "text", "picture"))


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for default in (300, 32, 0.001, 4, 2, 0.1, 20, 0.0, 1, mini_gpt.SEED, "attention.png"):
        assert f"(default: {default})" in printed
    assert printed.count("(default: ") == 21  # the number of options, but for --help


def refused(options, capsys):
    """The one line with which main refuses the options."""
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 2
    error, = capsys.readouterr().err.splitlines()
    return error


@pytest.mark.parametrize("options, named", [
    ("--heads 5", "5 heads"), ("--epochs 0", "--epochs"), ("--epochs many", "'many'"), ("--batch-size 0", "--batch-size"),
    ("--dropout 1.5", "--dropout"), ("--dropout nan", "--dropout"), ("--lr -1", "--lr"), ("--lr inf", "--lr"),
    ("--layers 0", "--layers"), ("--embed-dim 0", "--embed-dim"), ("--max-new-tokens 0", "--max-new-tokens"),
    ("--seed -1", "--seed"), ("--prompt zebra", "'zebra'"), ("--prompt Deep", "case"), ("--chars --prompt deeq", "'q'"),
    ("--prompt <|endoftext|>", "<|endoftext|>"), ("--device nonsense", "nonsense"),
    ("--plot /no/such/folder/x.png", "/no/such/folder/x.png"), ("--plot picture.txt", ".png"), ("--plot .", "--plot ."),
    ("--epoch 3", "--epoch"), ("--nonsense", "--nonsense"),
    ("--temperature -0.1", "--temperature"), ("--temperature nan", "--temperature"), ("--temperature inf", "--temperature"),
    ("--top-k 0", "--top-k"), ("--top-p 0", "--top-p"), ("--top-p 1.1", "--top-p"), ("--samples 0", "--samples"),
    ("--samples 2", "the same"), ("--holdout 1", "--holdout"), ("--holdout -0.1", "--holdout"),
    ("--holdout 0.01", "--holdout"), ("--holdout 0.99", "--holdout"), ("--context 0", "--context"),
    ("--data missing.txt", "missing.txt: No such file"), ("--data .", "directory"),
])
def test_a_bad_option_is_refused_in_one_line_before_any_training(options, named, capsys):
    assert named in refused(options.split(), capsys)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content, named", [
    (b"", "no text"), (b"\n \n\t\n", "no text"), (b"caf\xe9\n", "UTF-8"), (b"a <|endoftext|> b\n", "<|endoftext|>"),
])
def test_a_file_without_proper_text_is_refused(content, named, capsys):
    Path("mine.txt").write_bytes(content)
    assert named in refused(["--data", "mine.txt"], capsys)


@pytest.mark.usefixtures("undrawn")
def test_training_that_diverges_is_stopped_in_one_line(capsys):
    assert "learning rate" in refused(["--lr", "1e9"], capsys)


# ---------------------------------------------------------------- the experiments of the README


def results(options, capsys, old="", new=""):
    """What main returns with one edit made in a copy of the source, and the training loss that it prints."""
    source = SCRIPT.read_text(encoding="utf-8")
    if old:
        assert source.count(old) == 1
        source = source.replace(old, new)
    edited = {"__name__": "edited"}
    exec(source, edited)
    edited["plot_attention"] = lambda *args, **kwargs: plt.figure()
    returned = edited["main"](options.split())
    return returned, figures(capsys.readouterr().out, "training")[0]


def test_experiment_1_without_the_mask_the_loss_falls_far_below_the_floor(capsys):
    line, = re.findall(r"```diff\n-(.*\n)```", README)
    _, loss = results("", capsys, old=line)
    assert loss < entropy_floor(SEQUENCES) / 10


def readme_cell(start):
    """The block of Python in the README that starts like this."""
    cell, = re.findall(rf"```python\n({re.escape(start)}.*?)```", README, flags=re.DOTALL)
    return cell


@pytest.fixture
def notebook(trained):
    """The names that are there in a notebook after the file has run in a cell."""
    with torch.no_grad():
        _, attention_weights = trained(torch.tensor([SEQUENCES[0][:-1]]))
    return {**vars(mini_gpt), "model": trained, "vocab": VOCAB, "attention_weights": attention_weights}


def test_the_readmes_first_cell_completes_and_draws(notebook, capsys):
    exec(readme_cell("print(generate("), notebook)
    assert capsys.readouterr().out.strip() in SENTENCES
    assert plt.gcf().axes[0].get_title() == "layer 1, head 0"


def test_experiment_2_attention_weights_worked_out_by_hand_are_those_of_the_model(notebook, capsys):
    exec(readme_cell("block ="), notebook)
    assert capsys.readouterr().out.startswith("True tensor([1.")
    assert notebook["weights"][0].tolist() == [1, 0, 0, 0, 0]


def test_experiment_3_next_word_probabilities_are_near_the_counts_in_the_sentences(notebook, capsys):
    exec(readme_cell("ids ="), notebook)
    words, probabilities = zip(*(line.split() for line in capsys.readouterr().out.splitlines()))
    assert words == ("deep", "learning", "is", "powerful", DELIMITER)
    assert [float(p) for p in probabilities] == pytest.approx([3 / 6, 2 / 3, 2 / 2, 1 / 2, 1 / 1], abs=0.06)


def test_experiment_4_step_for_step_the_gpt_learns_more_than_the_lstm(capsys, trained):
    torch.manual_seed(mini_gpt.SEED)
    lstm = MiniLSTM(len(VOCAB))
    train(lstm, SEQUENCES)
    assert entropy_floor(SEQUENCES) < evaluate(trained, SEQUENCES) < evaluate(lstm, SEQUENCES)


@pytest.mark.parametrize("old, new, options, with_the_part, without_it", [
    ("self.token_embedding(idx) + self.position_embedding(positions)", "self.token_embedding(idx)",
     "--data order.txt --layers 1", (0.11, 0.14), (0.23, 0.26)),
    ("x = x + self.dropout(attended)", "x = x", "--data order.txt --layers 1", (0.11, 0.14), (0.3, 0.5)),
    ("x = x + self.dropout(attended)", "x = self.dropout(attended)", "--layers 12 --epochs 60", (0.35, 1.0), (2.5, 3.0)),
    ("import torch.nn as nn", "import torch.nn as nn; nn.LayerNorm = nn.Identity", "--lr 0.05",
     (0.35, 0.4), (math.log(17), math.inf)),  # worse than knowing nothing
], ids=["positions", "attention", "residual", "LayerNorm"])
def test_experiment_5_what_is_lost_without_a_part_of_the_model(old, new, options, with_the_part, without_it,
                                                              capsys, monkeypatch):
    assert f"| `{old}` → `{new}` | `{options}` |" in README
    Path("order.txt").write_text("dog bites man : sad\nman bites dog : funny\n")
    monkeypatch.setattr(nn, "LayerNorm", nn.LayerNorm)  # put back after one of the edits
    _, loss = results(options, capsys)
    _, loss_after = results(options, capsys, old, new)
    assert with_the_part[0] < loss < with_the_part[1]
    assert without_it[0] < loss_after < without_it[1]


def test_the_six_sentences_can_be_learned_without_attention(capsys):
    _, loss = results("", capsys, "x = x + self.dropout(attended)", "x = x")
    assert loss < entropy_floor(SEQUENCES) + 0.03
