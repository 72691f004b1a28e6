"""Mini GPT: a decoder-only Transformer in one file, to be read from top to bottom.

    python mini_gpt.py          learns six sentences, completes "deep", draws its attention
    python mini_gpt.py --help   lists the rest: your own text, sampling, an LSTM to compare with

The file follows the data: text becomes tokens, tokens attend to each other and become predictions,
predictions become a loss, the loss becomes learning, and learning becomes text and a picture.
If you read one class only, read MaskedSelfAttention. Letters in the shapes, the same everywhere:

    B  batch: sequences side by side      C  channels: numbers per token (embed_dim)
    T  time: tokens in a sequence         H  attention heads         V  vocabulary size
"""

import argparse
import math
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

# ---------------------------------------------------------------- data and hyperparameters
SENTENCES = [
    "deep learning is powerful",
    "deep learning is fun",
    "transformers are powerful",
    "attention is all you need",
    "deep models learn representations",
    "transformers use self attention",
]
EMBED_DIM, NUM_HEADS, NUM_LAYERS = 32, 4, 2
DROPOUT, LEARNING_RATE, EPOCHS, BATCH_SIZE = 0.1, 0.001, 300, 32
SEED = 2017  # "powerful" and "fun" tie after "deep learning is"; with this seed, "powerful" wins


# ---------------------------------------------------------------- text becomes tokens
DELIMITER, DELIMITER_ID = "<|endoftext|>", 0  # around every line: where to start, when to stop


class Vocab:
    """The words, or with chars=True the characters, of some lines of text, numbered from 1."""

    def __init__(self, lines, chars=False):
        self.split, self.gap = (list, "") if chars else (str.split, " ")
        found = {token for line in lines for token in self.split(line)}
        self.tokens = [DELIMITER, *sorted(found - {DELIMITER})]
        self.ids = {token: i for i, token in enumerate(self.tokens[1:], start=1)}

    def encode(self, text):
        """Text -> list of ids, without delimiters. Raises ValueError for an unknown token."""
        try:
            return [self.ids[token] for token in self.split(text)]
        except KeyError as token:
            raise ValueError(f"{token} is not in the data's vocabulary (case matters)") from None

    def decode(self, ids):
        """List of ids -> text; a delimiter shows as itself."""
        return self.gap.join(self.tokens[i] for i in ids)


def make_sequences(lines, context_length):
    """Lines of ids -> sequences: a delimiter at each end of a line, cut to the context."""
    whole = [[DELIMITER_ID, *ids, DELIMITER_ID] for ids in lines]
    # A piece has one token more, its last target. The next starts with it: none is predicted twice.
    return [ids[start:start + context_length + 1]
            for ids in whole for start in range(0, len(ids) - 1, context_length)]


def count_predictions(sequences):
    """How many tokens there are to predict: all but the first of each sequence."""
    return sum(len(sequence) - 1 for sequence in sequences)


# ---------------------------------------------------------------- tokens attend to each other
# What attention receives is x (B, T, C): every token's id has picked a vector of C numbers from a
# table, and a vector for its position was added. MiniGPT, the class after the next two, does that.


def causal_mask(seq_len, device=None):
    """Bool (T, T), True where attention is forbidden: row t must not look at columns after t."""
    return torch.triu(torch.ones(seq_len, seq_len, device=device), diagonal=1).bool()


class MaskedSelfAttention(nn.Module):
    """Multi-head causal self-attention ("Attention Is All You Need", Vaswani et al. 2017)."""

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        if embed_dim % num_heads != 0:
            raise ValueError(f"{embed_dim} channels do not divide evenly among {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # query, key and value in one product
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        """x (B, T, C) -> out (B, T, C), weights (B, H, T, T); each row of weights sums to 1."""
        B, T, C = x.shape
        H, head_size = self.num_heads, C // self.num_heads
        # Query: what a token looks for. Key: what it offers. Value: what it passes on. Cut out of
        # (B, T, 3C), each is (B, T, C); cut into heads, each is (B, H, T, head_size).
        q, k, v = (part.view(B, T, H, head_size).transpose(1, 2)
                   for part in self.qkv(x).chunk(3, dim=-1))

        # Where the numbers in q and k have a standard deviation of 1, that of their dot product is
        # sqrt(head_size). Divided by it, it is 1 again, however many channels a head has.
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)  # (B, H, T, T)
        scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))
        weights = F.softmax(scores, dim=-1)  # exp(-inf) = 0: the future gets no weight at all

        out = self.dropout(weights) @ v  # (B, H, T, head_size)
        out = out.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.projection(out), weights


class GPTBlock(nn.Module):
    """Attention, then a feed-forward network: each reads LayerNorm(x) and adds to x (pre-LN)."""

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = MaskedSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(embed_dim, 4 * embed_dim), nn.GELU(),  # GELU: a ReLU with a smooth bend
            nn.Dropout(dropout), nn.Linear(4 * embed_dim, embed_dim))
        self.dropout = nn.Dropout(dropout)  # random zeros in training: no number is relied upon

    def forward(self, x):
        """x (B, T, C) -> x (B, T, C), attention weights (B, H, T, T)."""
        attended, weights = self.attention(self.norm1(x))  # tokens learn of each other
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feed_forward(self.norm2(x)))  # each token by itself
        return x, weights


# ---------------------------------------------------------------- tokens become predictions
class MiniGPT(nn.Module):
    """Token and position embeddings, a stack of blocks, a score for every possible next token."""

    def __init__(self, vocab_size, context_length, embed_dim=EMBED_DIM, num_heads=NUM_HEADS,
                 num_layers=NUM_LAYERS, dropout=DROPOUT):
        super().__init__()
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size, embed_dim)
        self.position_embedding = nn.Embedding(context_length, embed_dim)
        self.blocks = nn.ModuleList(
            GPTBlock(embed_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, vocab_size)

    def forward(self, idx):
        """idx (B, T) -> logits (B, T, V), attention weights: a list of (B, H, T, T), one per layer.

        The logits at t score the token at t + 1. Raises ValueError if T exceeds context_length.
        """
        T = idx.shape[1]
        if T > self.context_length:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        # To attention alone, the past has no order: each position adds a vector of its own.
        positions = torch.arange(T, device=idx.device)  # (T,)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C)
        attention_weights = []
        for block in self.blocks:
            x, weights = block(x)
            attention_weights.append(weights)
        return self.head(self.norm(x)), attention_weights


class MiniLSTM(nn.Module):
    """An LSTM (Hochreiter & Schmidhuber 1997) to compare with, used in just the same way."""

    def __init__(self, vocab_size, embed_dim=EMBED_DIM, num_layers=NUM_LAYERS, dropout=DROPOUT):
        super().__init__()
        self.context_length = sys.maxsize  # it has no positions that could run out
        # A layer of h units has 8 h^2 parameters, a block of GPT 12 embed_dim^2: equal with this h.
        h = round(embed_dim * math.sqrt(12 / 8))
        self.token_embedding = nn.Embedding(vocab_size, h)
        dropout = dropout if num_layers > 1 else 0.0  # it acts between layers
        self.lstm = nn.LSTM(h, h, num_layers, batch_first=True, dropout=dropout)
        self.head = nn.Linear(h, vocab_size)

    def forward(self, idx):
        """idx (B, T) -> logits (B, T, V), no attention weights: an empty list."""
        hidden, _ = self.lstm(self.token_embedding(idx))  # (B, T, h)
        return self.head(hidden), []


# ---------------------------------------------------------------- predictions become a loss
def collate(sequences):
    """Sequences -> inputs (B, T) and targets (B, T): tokens, and for each the one after it."""
    # Shorter ones are padded on the right. In the inputs any id will do, for no real token looks to
    # its right; among the targets it is -100, which cross_entropy leaves out.
    sequences = [torch.tensor(ids) for ids in sequences]
    inputs = pad_sequence([ids[:-1] for ids in sequences], batch_first=True)
    targets = pad_sequence([ids[1:] for ids in sequences], batch_first=True, padding_value=-100)
    return inputs, targets


def next_token_loss(model, inputs, targets):
    """Mean cross-entropy, in nats per token: one that was given probability p costs -ln(p) nats."""
    device = next(model.parameters()).device
    logits, _ = model(inputs.to(device))  # (B, T, V)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten().to(device))
    if not loss.isfinite():
        raise FloatingPointError(f"the loss is {loss:f}: try a smaller learning rate (--lr)")
    return loss


@torch.no_grad()
def evaluate(model, sequences, batch_size=BATCH_SIZE):
    """Mean loss without dropout, in nats per predicted token; perplexity is its exponential."""
    model.eval()
    nats, by_length = 0.0, sorted(sequences, key=len)  # in this order there is little padding
    for inputs, targets in DataLoader(by_length, batch_size, collate_fn=collate):
        nats += next_token_loss(model, inputs, targets).item() * (targets >= 0).sum().item()
    return nats / count_predictions(sequences)


def entropy_floor(sequences):
    """The least loss of any model that cannot see the future, in nats per predicted token.

    "deep learning is" goes on once with "powerful" and once with "fun": no model can do better than
    give 1/2 to each, and pay ln 2 nats both times. Such shares, multiplied along a sequence, give
    its share among all with the same first token (chain rule), and -ln of that is its whole cost.
    """
    starts = Counter(sequence[0] for sequence in sequences)
    copies = Counter(map(tuple, sequences))
    nats = sum(-n * math.log(n / starts[sequence[0]]) for sequence, n in copies.items())
    return nats / count_predictions(sequences)


# ---------------------------------------------------------------- the loss becomes learning
def report(losses, steps, tokens, start):
    """Print how training goes: ten lines in all and, in a terminal, a live one every second."""
    step, seconds = len(losses), time.perf_counter() - start
    is_tenth = 10 * step % steps < 10  # this step completes another tenth of them
    if is_tenth or (sys.stdout.isatty() and seconds % 1 < seconds / step):  # once a second
        recent = losses[-math.ceil(steps / 10):]
        left = timedelta(seconds=round(seconds / step * (steps - step)))
        line = (f"step {step:8}/{steps}  loss {sum(recent) / len(recent):.4f}  "
                f"{tokens * step / steps / seconds:,.0f} tokens/s  {left} left")
        print(f"{line:79.79}", end="\n" if is_tenth else "\r", flush=True)


def train(model, sequences, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LEARNING_RATE):
    """Fit the model to the sequences (Ctrl-C ends it); return each step's loss, nats per token."""
    shuffler = torch.Generator().manual_seed(torch.initial_seed())  # the same for every model
    loader = DataLoader(sequences, batch_size, shuffle=True, collate_fn=collate, generator=shuffler)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    steps, tokens = epochs * len(loader), epochs * count_predictions(sequences)
    losses, start = [], time.perf_counter()
    model.train()
    try:
        for _ in range(epochs):
            for inputs, targets in loader:
                loss = next_token_loss(model, inputs, targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                report(losses, steps, tokens, start)
    except KeyboardInterrupt:
        print(f"stopped at step {len(losses)}".ljust(79))
    return losses


# ---------------------------------------------------------------- learning becomes text
def sampling_probabilities(logits, temperature=1.0, top_k=None, top_p=1.0):
    """Logits (V,) -> probabilities (V,), the sharper the lower the temperature.

    top_k keeps that many tokens, and top_p the fewest of these that together reach this probability
    (nucleus sampling, Holtzman et al. 2019); the others get probability 0.
    """
    if not (temperature > 0 and (top_k is None or top_k > 0) and 0 < top_p <= 1):
        raise ValueError("sampling needs a temperature above 0, top-k above 0, top-p in (0, 1]")
    ordered, ids = logits.cpu().double().sort(descending=True)
    # Less the largest, the softmax stays the same, and exp can't overflow at any temperature.
    kept = F.softmax((ordered[:top_k] - ordered[0]) / temperature, dim=-1)  # (k,)
    kept = kept * (kept.cumsum(dim=-1) - kept < top_p)  # while the likelier ones don't reach top_p
    return torch.zeros_like(ordered).scatter(0, ids[:top_k], kept / kept.sum())  # in order of ids


@torch.no_grad()
def generate(prompt, model, vocab, max_new_tokens=20, temperature=0.0, top_k=None, top_p=1.0):
    """Continue the prompt token by token until a delimiter; return all of it as text.

    Temperature 0 takes the likeliest token (greedy), above 0 it samples. Prompt "" starts a line.
    Raises ValueError for a word that is not in the vocabulary, or sampling that makes no sense.
    """
    ids = [DELIMITER_ID, *vocab.encode(prompt)]
    model.eval()
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-model.context_length:]]).to(next(model.parameters()).device)
        logits, _ = model(context)  # (1, T) -> (1, T, V), of which the last position is needed
        if temperature == 0:
            next_id = torch.argmax(logits[:, -1, :]).item()
        else:
            probabilities = sampling_probabilities(logits[0, -1], temperature, top_k, top_p)
            next_id = torch.multinomial(probabilities, num_samples=1).item()
        if next_id == DELIMITER_ID:
            break
        ids.append(next_id)
    return vocab.decode(ids[1:])


# ---------------------------------------------------------------- learning becomes a picture
def plot_attention(attention_weights, layer=0, tokens=None):
    """Draw a heatmap per head of a layer: how much each token (row) attends to each (column).

    attention_weights: one (B, H, T, T) per layer; of B the first is drawn. tokens: T labels; None
    numbers them. The picture is pyplot's current figure: plt.savefig("attention.png") keeps it.
    """
    weights = attention_weights[layer][0].detach().cpu().numpy()  # (H, T, T)
    H, T, _ = weights.shape
    labels = [repr(str(token))[1:-1].replace(" ", "␣")  # white space, too, can be seen
              for token in (range(T) if tokens is None else tokens)]
    labels = [label if len(label) <= 16 else label[:15] + "…" for label in labels]
    is_small = T <= 12  # there is room for a number in each cell, and for a line around it
    side = min(max(2.4, 0.5 * T), 6.0)  # of a panel, in inches
    fig, axes = plt.subplots(1, H, figsize=(H * side + 1.5, side + 1), sharey=True, squeeze=False)
    for head, ax in enumerate(axes[0]):
        sns.heatmap(weights[head], mask=causal_mask(T).numpy(), vmin=0, vmax=1, cmap="Blues",
                    annot=is_small, fmt=".2f", annot_kws={"size": 8}, linewidths=0.5 * is_small,
                    square=True, cbar=False, xticklabels=False, yticklabels=False, ax=ax)
        ax.set_title(f"layer {layer}, head {head}")
    fig.set_layout_engine("constrained")
    fig.colorbar(ax.collections[0], ax=axes, label="attention weight", shrink=0.7)
    # Words come last: seaborn draws all anew with each heatmap. In them, $ starts no formula.
    mids, style = [t + 0.5 for t in range(T)], {"size": min(10, 60 * side / T), "parse_math": False}
    for ax in axes[0]:
        ax.set_xticks(mids, labels, rotation=45, ha="right", rotation_mode="anchor", **style)
        ax.tick_params(length=0)
    axes[0, 0].set_yticks(mids, labels, **style)
    fig.supylabel("this token ...")
    fig.supxlabel("... attends to this token")


# ---------------------------------------------------------------- the command line
PARSER = argparse.ArgumentParser(
    prog="mini_gpt.py", usage=argparse.SUPPRESS, description="Learn, complete and draw a text.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
option = PARSER.add_argument
option("--data", metavar="FILE", help="UTF-8 text, one example a line; None: the six sentences")
option("--chars", action="store_true", help="make tokens of characters, not words")
option("--context", type=int, help="tokens seen at once; None: the longest line, at most 128")
option("--holdout", type=float, default=0.0, help="share of the lines to test on, not train on")
option("--epochs", type=int, default=EPOCHS, help="how often each line is seen")
option("--batch-size", type=int, default=BATCH_SIZE, help="lines in a training step")
option("--lr", type=float, default=LEARNING_RATE, help="learning rate of Adam")
option("--embed-dim", type=int, default=EMBED_DIM, help="channels, a multiple of the heads")
option("--heads", type=int, default=NUM_HEADS, help="attention heads in a layer")
option("--layers", type=int, default=NUM_LAYERS, help="GPT blocks")
option("--dropout", type=float, default=DROPOUT, help="share of numbers dropped when training")
option("--compare-lstm", action="store_true", help="train an LSTM of the same size too")
option("--prompt", help='text to complete; None: "deep", or "" with --data')
option("--max-new-tokens", type=int, default=20, help="longest continuation")
option("--temperature", type=float, default=0.0, help="0: the likeliest token; above 0: sample")
option("--top-k", type=int, help="sample from the k likeliest tokens only")
option("--top-p", type=float, default=1.0, help="sample from the fewest tokens that sum to this")
option("--samples", type=int, default=1, help="texts to generate, at a temperature above 0")
option("--seed", type=int, default=SEED, help="same seed, same output")
option("--device", choices=["cpu", "cuda", "mps"], help="None: CPU; with --data, CUDA if there")
option("--plot", metavar="FILE", default="attention.png", help="picture: .png, .pdf or .svg")


def prepare(args):
    """Check options; return vocabulary, lines of ids, training and held-out sequences, models."""
    for name, value in vars(args).items():
        least = 1 if type(value) is int and name != "seed" else 0  # counts start at 1
        if type(value) in (int, float) and not least <= value < 2**31:
            raise ValueError(f"--{name.replace('_', '-')} {value} is not between {least} and 2**31")
    path = Path(args.plot)
    is_writable = os.access(path if path.exists() else f"{path.parent}/", os.W_OK)
    if path.suffix.lower() not in (".png", ".pdf", ".svg") or path.is_dir() or not is_writable:
        raise ValueError(f"--plot {args.plot!r} is not a .png, .pdf or .svg that can be written")
    if not torch.get_device_module(args.device).is_available():
        raise ValueError(f"--device {args.device} is not available here")

    text = "\n".join(SENTENCES) if args.data is None else Path(args.data).read_text("utf-8-sig")
    texts = [line for line in text.split("\n") if line.strip()]
    vocab = Vocab(texts, args.chars)
    lines = [tuple(vocab.encode(line)) for line in texts]
    distinct = sorted(set(lines))  # copies of a held-out line are held out, too
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(args.seed))
    chosen = {distinct[i] for i in order[:round(args.holdout * len(distinct))]}
    if len(chosen) == len(distinct) or (args.holdout > 0 and not chosen):
        raise ValueError(f"--holdout {args.holdout} of {len(distinct)} lines: none on one side")
    context = args.context or min(128, 1 + max(map(len, lines)))
    training = make_sequences([line for line in lines if line not in chosen], context)
    held_out = make_sequences([line for line in lines if line in chosen], context)

    torch.manual_seed(args.seed)
    gpt = MiniGPT(len(vocab.tokens), context, args.embed_dim, args.heads, args.layers, args.dropout)
    lstm = MiniLSTM(len(vocab.tokens), args.embed_dim, args.layers, args.dropout)
    # A rehearsal: what is wrong shows before training, and no Ctrl-C meets a loading optimizer.
    torch.optim.Adam(gpt.parameters(), args.lr)
    generate(args.prompt, gpt, vocab, 1, args.temperature or 1.0, args.top_k, args.top_p)
    return vocab, lines, training, held_out, [gpt, lstm][:1 + args.compare_lstm]


def run(args, threads):
    """Train, evaluate, complete and draw, and print what comes of it."""
    args.device = args.device or ("cuda" if args.data and torch.cuda.is_available() else "cpu")
    if args.prompt is None:
        args.prompt = "" if args.data else "deep"
    vocab, lines, training, held_out, models = prepare(args)
    print(f"data      {len(lines):,} lines, {count_predictions(training):,} tokens to predict, "
          f"vocabulary of {len(vocab.tokens):,}")
    print(f"floor     {entropy_floor(training):.4f} nats/token: no causal model trains lower")
    completions = []
    for model in models:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        torch.set_num_threads(1 if parameters < 1_000_000 else threads)  # small: one is fastest
        torch.manual_seed(args.seed)  # so that every model sees the same batches
        print(f"model     {type(model).__name__}, {parameters:,} parameters on {args.device}")
        train(model.to(args.device), training, args.epochs, args.batch_size, args.lr)
        with suppress(KeyboardInterrupt):  # a first Ctrl-C ends training, a second one this
            for name, sequences in [("training", training), ("held-out", held_out)]:
                if sequences:
                    loss = evaluate(model, sequences)
                    print(f"{name}  loss {loss:.4f}, perplexity {torch.tensor(loss).exp():.2f}")
        for _ in range(args.samples):
            text = generate(args.prompt, model, vocab, args.max_new_tokens, args.temperature,
                            args.top_k, args.top_p)
            completions.append(tuple(vocab.encode(text)))
            is_new = not any(line[:len(completions[-1])] == completions[-1] for line in lines)
            print(f"text      {text}" + "  (new)" * is_new)
    ids = [DELIMITER_ID, *completions[0]][-models[0].context_length:]
    with torch.no_grad():
        _, attention_weights = models[0](torch.tensor([ids], device=args.device))
    plot_attention(attention_weights, tokens=[vocab.tokens[i] for i in ids])
    plt.savefig(args.plot, dpi=150)
    print(f"picture   {args.plot}")
    return models[0], vocab, attention_weights


def main(argv=()):
    """Do what the options say (--help lists them); return GPT, vocabulary, attention weights."""
    threads = torch.get_num_threads()
    try:
        return run(PARSER.parse_args(argv), threads)
    except (OSError, ValueError, FloatingPointError) as error:  # what the user can fix
        PARSER.error(str(error))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":  # a notebook's cell has no __file__, and sys.argv is not for it
    model, vocab, attention_weights = main(sys.argv[1:] if "__file__" in globals() else [])
