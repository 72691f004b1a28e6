"""What Mini GPT claims, checked: `pytest` from the folder of mini_gpt.py. In the order of that file."""

import itertools
import math
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
from mini_gpt import (DELIMITER, SENTENCES, GPTBlock, MaskedSelfAttention, MiniGPT, Vocab, causal_mask,
                      evaluating, generate, main, next_token_loss, plot_attention, train)

SCRIPT = Path(mini_gpt.__file__).resolve()
VOCAB = Vocab(SENTENCES)
SEQUENCES = [[0, *VOCAB.encode(sentence), 0] for sentence in SENTENCES]


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
    nats = sum(-n * math.log(n / sum(counts.values())) for counts in followers.values() for n in counts.values())
    return nats / sum(sum(counts.values()) for counts in followers.values())


def loss_without_dropout(model, sequences):
    with evaluating(model):
        return next_token_loss(model, sequences).item()


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


def test_an_unknown_word_is_refused_by_name():
    with pytest.raises(ValueError, match="'zebra'"):
        VOCAB.encode("deep zebra learning")


@pytest.mark.parametrize("text", ["<|endoftext|>", "deep <|endoftext|> learning", "deep<|endoftext|>"])
def test_text_cannot_smuggle_in_the_delimiter(text):
    with pytest.raises(ValueError, match="endoftext"):
        VOCAB.encode(text)
    with pytest.raises(ValueError, match="endoftext"):
        Vocab(SENTENCES + [text])


# ---------------------------------------------------------------- tokens become vectors


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


def test_block_equals_pytorchs_pre_norm_encoder_layer_with_a_causal_mask():
    block = GPTBlock(32, 4, dropout=0.0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs = nn.TransformerEncoderLayer(32, 4, dim_feedforward=128, dropout=0.0, activation="gelu",
                                        batch_first=True, norm_first=True)
    theirs.load_state_dict({
        "self_attn.in_proj_weight": block.attention.qkv.weight, "self_attn.in_proj_bias": block.attention.qkv.bias,
        "self_attn.out_proj.weight": block.attention.projection.weight,
        "self_attn.out_proj.bias": block.attention.projection.bias,
        "linear1.weight": block.feed_forward[0].weight, "linear1.bias": block.feed_forward[0].bias,
        "linear2.weight": block.feed_forward[3].weight, "linear2.bias": block.feed_forward[3].bias,
        "norm1.weight": block.norm1.weight, "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight, "norm2.bias": block.norm2.bias})
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(block(x)[0], theirs(x, src_mask=causal_mask(6)), rtol=0, atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="32.*5"):
        MaskedSelfAttention(32, 5, 0.1)


# ---------------------------------------------------------------- vectors become predictions


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


# ---------------------------------------------------------------- predictions become a loss


def test_the_loss_is_the_mean_surprise_at_each_next_token_and_padding_is_not_counted():
    model, sequences = small_gpt(), [[0, 5, 3, 9, 0], [0, 7, 0]]
    surprises = []
    for sequence in sequences:
        for t in range(1, len(sequence)):
            logits, _ = model(torch.tensor([sequence[:t]]))
            surprises.append(-F.log_softmax(logits[0, -1], dim=-1)[sequence[t]].item())
    assert next_token_loss(model, sequences).item() == pytest.approx(sum(surprises) / 6, abs=1e-5)


# ---------------------------------------------------------------- the loss becomes learning


def test_training_overfits_the_sentences_down_to_their_entropy_floor_and_not_below(trained):
    floor = floor_by_definition(SEQUENCES)
    assert floor < loss_without_dropout(trained, SEQUENCES) < floor + 0.03


def test_without_its_mask_the_model_gets_below_the_floor_by_reading_the_answers(monkeypatch):
    monkeypatch.setattr(mini_gpt, "causal_mask", lambda T, device=None: torch.zeros(T, T, dtype=torch.bool))
    assert loss_without_dropout(trained_by_default(), SEQUENCES) < floor_by_definition(SEQUENCES)


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


# ---------------------------------------------------------------- what was learned becomes text


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


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_in_the_mode_in_which_it_found_it(training):
    model = MiniGPT(len(VOCAB), 6).train(training)
    generate("deep", model, VOCAB)
    assert model.training is training
    with pytest.raises(ValueError):
        generate("zebra", model, VOCAB)
    assert model.training is training


# ---------------------------------------------------------------- what was learned becomes a picture


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


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """mini_gpt.py run as a script, and executed as a notebook's kernel does: without __file__, options not ours."""
    cell = ("exec(open('mini_gpt.py').read()); "
            "print(type(model).__name__, len(vocab), len(attention_weights), plt.get_fignums())")
    started = {}
    for name, arguments in {"script": ["mini_gpt.py"], "notebook": ["-c", cell, "-f", "kernel.json"]}.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(SCRIPT, folder)
        started[name] = folder, subprocess.Popen([sys.executable, *arguments], cwd=folder, text=True,
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


def test_same_seed_same_output_and_another_seed_another_model(capsys):
    def run(seed):
        model, _, _ = main(["--epochs", "5", "--seed", seed])
        printed = [line for line in capsys.readouterr().out.splitlines() if "per second" not in line]
        return printed, torch.cat([parameter.flatten() for parameter in model.parameters()])

    (printed, weights), (printed_again, weights_again), (_, other_weights) = run("7"), run("7"), run("8")
    assert printed == printed_again and torch.equal(weights, weights_again)
    assert not torch.equal(weights, other_weights)


def test_options_reach_the_model(capsys):
    model, _, attention_weights = main("--epochs 2 --batch-size 4 --embed-dim 24 --heads 3 --layers 1 --dropout 0 --lr 0.01 "
                                       "--prompt transformers --max-new-tokens 2 --plot picture.svg".split())
    assert model.token_embedding.embedding_dim == 24 and len(model.blocks) == 1
    assert attention_weights[0].shape[1] == 3
    assert model.blocks[0].dropout.p == 0
    printed = capsys.readouterr().out
    assert "4/4" in printed and "transformers" in printed
    assert Path("picture.svg").exists()


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for default in (300, 32, 0.001, 4, 2, 0.1, "deep", 20, mini_gpt.SEED, "attention.png"):
        assert f"(default: {default})" in " ".join(printed.split())


@pytest.mark.parametrize("options, named", [
    ("--heads 5", "5 heads"), ("--epochs 0", "--epochs"), ("--epochs many", "'many'"), ("--batch-size 0", "--batch-size"),
    ("--dropout 1.5", "--dropout"), ("--dropout nan", "--dropout"), ("--lr -1", "--lr"), ("--lr inf", "--lr"),
    ("--layers 0", "--layers"), ("--embed-dim 0", "--embed-dim"), ("--max-new-tokens 0", "--max-new-tokens"),
    ("--seed -1", "--seed"), ("--prompt zebra", "'zebra'"), ("--device nonsense", "nonsense"),
    ("--plot /no/such/folder/x.png", "/no/such/folder/x.png"), ("--plot picture.txt", ".png"), ("--plot .", "'.'"),
    ("--epoch 3", "--epoch"), ("--nonsense", "--nonsense"),
])
def test_a_bad_option_is_refused_in_one_line_before_any_training(options, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(options.split())
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert named in printed.err
