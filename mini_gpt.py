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
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

# ---------------------------------------------------------------- data and hyperparameters
SENTENCES = [
    "deep learning is powerful",
    "deep learning is fun",
    "transformers are powerful",
    "attention is all you need",
    "deep models learn representations",
    "transformers use self attention",
]
EMBED_DIM = 32
NUM_HEADS = 4
NUM_LAYERS = 2
DROPOUT = 0.1
LEARNING_RATE = 0.001
EPOCHS = 300
BATCH_SIZE = 32
# The sentences continue "deep learning is" once with "powerful" and once with "fun". Which one a
# trained model finds likelier is left to chance, and with this seed it is "powerful".
SEED = 2017


# ---------------------------------------------------------------- text becomes tokens
# One token opens and closes every line: it tells generation where to start and when to stop.
DELIMITER, DELIMITER_ID = "<|endoftext|>", 0


class Vocab:
    """The words, or with chars=True the characters, of some lines of text, numbered from 1.

    Raises ValueError for text with a token that has no number, or with the delimiter in it.
    """

    def __init__(self, lines, chars=False):
        self.chars = chars
        self.tokens = [DELIMITER, *sorted({token for line in lines for token in self.split(line)})]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def split(self, text):
        if DELIMITER in text:
            raise ValueError(f"text must not contain {DELIMITER}, which marks the ends of a line")
        return list(text) if self.chars else text.split()

    def encode(self, text):
        """Text -> list of ids, without delimiters."""
        tokens = self.split(text)
        for token in tokens:
            if token not in self.ids:
                kin = [known for known in self.tokens if known.lower() == token.lower()]
                some = ", ".join(map(repr, self.tokens[1:4]))
                hint = f"but {kin[0]!r} is: case matters" if kin else f"which has {some}, ..."
                raise ValueError(f"{token!r} is not in the vocabulary, {hint}")
        return [self.ids[token] for token in tokens]

    def decode(self, ids):
        """List of ids -> text; a delimiter shows as itself."""
        return ("" if self.chars else " ").join(self.tokens[i] for i in ids)


def make_sequences(lines, vocab, context_length):
    """Lines -> sequences: lists of ids, a delimiter at each end of a line, cut to the context."""
    whole = [[DELIMITER_ID, *vocab.encode(line), DELIMITER_ID] for line in lines]
    # Pieces overlap by one token, so that every token but the first is predicted exactly once.
    return [ids[start:start + context_length + 1]
            for ids in whole for start in range(0, len(ids) - 1, context_length)]


# ---------------------------------------------------------------- tokens attend to each other
# By now a token is a vector of C numbers, and x (B, T, C) holds those of a whole batch.


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
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # three projections in one product
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        """x (B, T, C) -> out (B, T, C), weights (B, H, T, T); each row of weights sums to 1."""
        B, T, C = x.shape
        head_size = C // self.num_heads

        # Query: what a token looks for. Key: what it offers. Value: what it passes on.
        # Every head has its own slice of their channels: (B, T, 3C) -> (3, B, H, T, head_size).
        qkv = self.qkv(x).view(B, T, 3, self.num_heads, head_size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, head_size)

        # A dot product of head_size terms spreads by sqrt(head_size); divided by that, the
        # softmax starts out soft enough to learn.
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
            nn.Linear(embed_dim, 4 * embed_dim), nn.GELU(),
            nn.Dropout(dropout), nn.Linear(4 * embed_dim, embed_dim))
        self.dropout = nn.Dropout(dropout)

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

    context_length = sys.maxsize  # it has no positions that could run out

    def __init__(self, vocab_size, embed_dim=EMBED_DIM, num_layers=NUM_LAYERS, dropout=DROPOUT):
        super().__init__()
        # A layer of h units has 8 h^2 weights, a block of GPT 12 embed_dim^2: equal with this h.
        h = round(embed_dim * math.sqrt(12 / 8))
        self.token_embedding = nn.Embedding(vocab_size, h)
        dropout = dropout if num_layers > 1 else 0.0  # it acts between layers, and there are none
        self.lstm = nn.LSTM(h, h, num_layers, batch_first=True, dropout=dropout)
        self.head = nn.Linear(h, vocab_size)

    def forward(self, idx):
        """idx (B, T) -> logits (B, T, V), no attention weights: an empty list."""
        hidden, _ = self.lstm(self.token_embedding(idx))  # (B, T, h)
        return self.head(hidden), []


# ---------------------------------------------------------------- predictions become a loss
NO_TARGET = -100  # cross_entropy skips targets of this value


def batches(sequences, batch_size):
    """The sequences in lists of batch_size; the last list may be shorter."""
    return [sequences[i:i + batch_size] for i in range(0, len(sequences), batch_size)]


def count_predictions(sequences):
    """How many tokens there are to predict: all but the first of each sequence."""
    return sum(len(sequence) - 1 for sequence in sequences)


def next_token_loss(model, sequences):
    """Mean cross-entropy of a batch, in nats per predicted token."""
    # Shorter sequences are padded on the right. That needs no mask of its own: real tokens look
    # only to their left, and what the padding predicts is not counted.
    ids = pad_sequence([torch.tensor(sequence) for sequence in sequences], batch_first=True,
                       padding_value=NO_TARGET).to(next(model.parameters()).device)
    inputs, targets = ids[:, :-1].clamp(min=0), ids[:, 1:]  # both (B, T), targets one step ahead
    logits, _ = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)


@torch.no_grad()
def evaluate(model, sequences, batch_size=BATCH_SIZE):
    """Mean loss without dropout, in nats per predicted token; perplexity is its exponential."""
    was_training = model.training
    model.eval()
    nats = sum(next_token_loss(model, batch).item() * count_predictions(batch)
               for batch in batches(sorted(sequences, key=len), batch_size))  # with little padding
    model.train(was_training)
    return nats / count_predictions(sequences)


def entropy_floor(sequences):
    """The least loss of any model that cannot see the future, in nats per predicted token.

    It is the entropy of what follows each prefix, averaged over the predictions. By the chain rule
    these add up to the entropy of whole sequences, given how they start, so it counts only those
    (which is exact as long as none is the beginning of another: their delimiters see to that).
    """
    starts = Counter(sequence[0] for sequence in sequences)
    copies = Counter(map(tuple, sequences))
    nats = sum(-n * math.log(n / starts[sequence[0]]) for sequence, n in copies.items())
    return nats / count_predictions(sequences)


# ---------------------------------------------------------------- the loss becomes learning
def train(model, sequences, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LEARNING_RATE):
    """Fit the model to the sequences, printing progress; return the loss of each step, and seconds.

    Ctrl-C ends it early. Raises FloatingPointError if the loss is no longer a finite number.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    order = random.Random(torch.initial_seed())  # a stream of its own, whatever dropout draws
    total_steps = epochs * len(batches(sequences, batch_size))
    losses, tokens, start = [], 0, time.perf_counter()
    printed, shown = 0, 0.0  # the last step that got a line to stay, the second of any last line
    width = 79 if sys.stdout.isatty() else 0  # only a terminal can write over a line

    model.train()
    try:
        for epoch in range(1, epochs + 1):
            for batch in batches(order.sample(sequences, len(sequences)), batch_size):
                loss = next_token_loss(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

                # That was all of learning. The rest tells how it goes: ten lines in all and, in
                # a terminal, a live line every second that the next line is written over.
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses)}: "
                                             f"try a learning rate below {lr:g}")
                tokens += count_predictions(batch)
                step, seconds = len(losses), time.perf_counter() - start
                is_tenth = step * 10 // total_steps > (step - 1) * 10 // total_steps
                if is_tenth or (width and seconds > shown + 1):
                    line = (f"epoch {epoch:{len(str(epochs))}}/{epochs}  "
                            f"step {step:{len(str(total_steps))}}/{total_steps}  "
                            f"loss {sum(losses[printed:]) / (step - printed):.4f}")
                    if not is_tenth:
                        line += (f"  {tokens / seconds:,.0f} tokens/s"
                                 f"  {seconds / step * (total_steps - step):.0f} s left")
                    print(line.ljust(width), end="\n" if is_tenth else "\r", flush=True)
                    printed, shown = step if is_tenth else printed, seconds
    except KeyboardInterrupt:
        print(f"stopped at step {len(losses)} of {total_steps}".ljust(width))
    seconds = time.perf_counter() - start
    print(f"time      {seconds:.1f} s, {tokens / seconds:,.0f} tokens per second".ljust(width))
    return losses, seconds


# ---------------------------------------------------------------- learning becomes text
def sampling_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Logits (V,) -> probabilities (V,), the sharper the lower the temperature.

    top_k keeps that many tokens, top_p the fewest that together reach this probability (nucleus
    sampling, Holtzman et al. 2019); the others get probability 0.
    """
    if not (temperature > 0 and (top_k is None or top_k > 0) and (top_p is None or 0 < top_p <= 1)):
        raise ValueError("sampling needs temperature > 0, top_k > 0 and 0 < top_p <= 1")
    logits, order = (logits / temperature).sort(descending=True)
    kept = F.softmax(logits[:top_k], dim=-1)  # (k,), the likeliest first
    if top_p is not None:
        likelier = kept.cumsum(dim=-1) - kept  # probability of all tokens before this one,
        kept = kept * (likelier.round(decimals=6) < top_p)  # rounded: 0.1 + 0.2 does reach 0.3
    return torch.zeros_like(logits).scatter(0, order[:top_k], kept / kept.sum())


@torch.no_grad()
def generate(prompt, model, vocab, max_new_tokens=20, temperature=0.0, top_k=None, top_p=None):
    """Continue the prompt token by token until a delimiter; return all of it as text.

    Temperature 0 takes the likeliest token (greedy), above 0 it samples. Prompt "" starts a line.
    Raises ValueError for a word that is not in the vocabulary, or sampling that makes no sense.
    """
    ids = [DELIMITER_ID, *vocab.encode(prompt)]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-model.context_length:]], device=device)  # (1, T)
        logits, _ = model(context)  # (1, T, V), of which only the last position is news
        if temperature == 0:
            next_id = torch.argmax(logits[:, -1, :]).item()
        else:
            probabilities = sampling_probabilities(logits[0, -1], temperature, top_k, top_p)
            next_id = torch.multinomial(probabilities, num_samples=1).item()
        if next_id == DELIMITER_ID:
            break
        ids.append(next_id)
    model.train(was_training)
    return vocab.decode(ids[1:])


# ---------------------------------------------------------------- learning becomes a picture
def plot_attention(attention_weights, layer=0, tokens=None):
    """One heatmap per head of a layer: how much each token (row) attends to each (column).

    attention_weights: one (B, H, T, T) per layer; of B the first is drawn. tokens: T labels; None
    numbers them. Returns the Figure. Raises ValueError if there is no such layer, or not T labels.
    """
    if not 0 <= layer < len(attention_weights):
        raise ValueError(f"no layer {layer}: there are {len(attention_weights)}, counted from 0")
    weights = attention_weights[layer][0].detach().cpu()  # (H, T, T)
    H, T, _ = weights.shape
    labels = [str(label).replace("$", r"\$") for label in (range(T) if tokens is None else tokens)]
    if len(labels) != T:
        raise ValueError(f"{len(labels)} tokens given for the attention among {T}")

    side = min(max(2.4, 0.5 * T), 6.0)  # of a panel, in inches
    fig = plt.figure(figsize=(H * side + 1.5, side + 1))
    for head in range(H):
        ax = fig.add_subplot(1, H, head + 1, title=f"layer {layer}, head {head}")
        sns.heatmap(weights[head].numpy(), mask=causal_mask(T).numpy(), vmin=0, vmax=1,
                    cmap="Blues", annot=T <= 12, fmt=".2f", annot_kws={"size": 8}, linewidths=0.5,
                    square=True, cbar=False, xticklabels=False, yticklabels=False, ax=ax)
    fig.colorbar(ax.collections[0], ax=fig.axes, label="attention weight", shrink=0.7)
    # Words come last, for seaborn draws the whole figure anew with each heatmap.
    centres, size = [t + 0.5 for t in range(T)], min(10, 60 * side / T)
    for ax in fig.axes[:H]:
        ax.set_xticks(centres, labels, size=size, rotation=45, ha="right", rotation_mode="anchor")
        ax.tick_params(length=0)
    fig.axes[0].set_yticks(centres, labels, size=size)
    fig.supylabel("this token ...")
    fig.supxlabel("... attends to this token")
    fig.set_layout_engine("constrained")
    return fig


# ---------------------------------------------------------------- the command line
def number(kind, accept, wanted):
    """An argparse type: an int or a float that accept() agrees to; wanted says it in words."""
    def convert(text):
        with suppress(ValueError):
            if accept(kind(text)):
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return convert


def option_parser():
    count = number(int, lambda n: n >= 1, "a whole number of at least 1")
    share = number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
    rate = number(float, lambda x: 0 < x < math.inf, "a finite number above 0")
    heat = number(float, lambda x: 0 <= x < math.inf, "a finite number of at least 0")
    probability = number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")
    seed = number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
    devices = [name for name, is_here in [("cuda", torch.cuda.is_available()), ("cpu", True),
                                          ("mps", torch.backends.mps.is_available())] if is_here]
    parser = argparse.ArgumentParser(
        prog="mini_gpt.py", usage=argparse.SUPPRESS, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Train a small GPT, complete a text with it, draw its attention.")
    option = parser.add_argument
    option("--data", metavar="FILE", help="UTF-8 text, one example a line; None: six sentences")
    option("--chars", action="store_true", help="make tokens of characters, not words")
    option("--context", type=count, help="tokens seen at once; None: the longest line, at most 128")
    option("--holdout", type=share, default=0.0, help="share of the lines to test on, not train on")
    option("--epochs", type=count, default=EPOCHS, help="how often each line is seen")
    option("--batch-size", type=count, default=BATCH_SIZE, help="lines in a training step")
    option("--lr", type=rate, default=LEARNING_RATE, help="learning rate of Adam")
    option("--embed-dim", type=count, default=EMBED_DIM, help="channels, a multiple of the heads")
    option("--heads", type=count, default=NUM_HEADS, help="attention heads in a layer")
    option("--layers", type=count, default=NUM_LAYERS, help="GPT blocks")
    option("--dropout", type=share, default=DROPOUT, help="share of numbers dropped when training")
    option("--compare-lstm", action="store_true", help="train an LSTM of the same size too")
    option("--prompt", help='text to complete; None: "deep", or "" with --data')
    option("--max-new-tokens", type=count, default=20, help="longest continuation")
    option("--temperature", type=heat, default=0.0, help="0: the likeliest token; above 0: sample")
    option("--top-k", type=count, help="sample from the k likeliest tokens only")
    option("--top-p", type=probability, help="sample from the fewest tokens with this probability")
    option("--samples", type=count, default=1, help="texts to generate, at a temperature above 0")
    option("--seed", type=seed, default=SEED, help="same seed, same output")
    option("--device", choices=devices, default=devices[0], help="where to compute")
    option("--plot", metavar="FILE", default="attention.png", help="picture: .png, .pdf or .svg")
    return parser


def prepare(args):
    """Options -> lines, vocabulary, training and held-out sequences, models.

    Whatever is wrong with an option shows here, before any training: raises ValueError or OSError.
    """
    if args.samples > 1 and args.temperature == 0:
        raise ValueError("--samples would all be the same: set a --temperature above 0")
    lines = SENTENCES
    if args.data:
        text = Path(args.data).read_text(encoding="utf-8-sig")  # -sig skips a byte order mark
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            raise ValueError(f"{args.data} has no text in it")
    vocab = Vocab(lines, args.chars)
    if args.prompt is None:
        args.prompt = "" if args.data else "deep"
    vocab.encode(args.prompt)
    context_length = args.context or min(128, 1 + max(len(vocab.split(line)) for line in lines))

    distinct = sorted(set(lines))  # if a line is held out, so are its copies
    drawn = set(random.Random(args.seed).sample(distinct, round(args.holdout * len(distinct))))
    if args.holdout > 0 and not 0 < len(drawn) < len(distinct):
        raise ValueError(f"--holdout {args.holdout} of {len(distinct)} lines leaves one side empty")
    training = make_sequences([line for line in lines if line not in drawn], vocab, context_length)
    held_out = make_sequences([line for line in lines if line in drawn], vocab, context_length)

    torch.manual_seed(args.seed)
    models = [MiniGPT(len(vocab), context_length, args.embed_dim, args.heads, args.layers,
                      args.dropout)]
    if args.compare_lstm:
        models.append(MiniLSTM(len(vocab), args.embed_dim, args.layers, args.dropout))
    if not args.plot.lower().endswith((".png", ".pdf", ".svg")):
        raise ValueError(f"--plot {args.plot} must end in .png, .pdf or .svg")
    open(args.plot, "ab").close()  # raises OSError if the picture could not be saved later
    return lines, vocab, training, held_out, [model.to(args.device) for model in models]


def learn(model, args, lines, vocab, training, held_out):
    """Train, evaluate, complete; print what came of it, and return it as a row of a table."""
    torch.manual_seed(args.seed)  # so that every model sees the same batches
    parameters = f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    row = {"model": type(model).__name__, "parameters": parameters}
    print(f"model     {row['model']}, {parameters} parameters on {args.device}")
    _, seconds = train(model, training, args.epochs, args.batch_size, args.lr)
    for name, sequences in [("training", training), ("held-out", held_out)]:
        if sequences:
            if sys.stdout.isatty():  # with much data this takes a while
                print(f"evaluating on {len(sequences):,} {name} sequences", end="\r", flush=True)
            loss = evaluate(model.eval(), sequences)
            perplexity = torch.tensor(loss).exp()  # infinite for a huge loss, where math.exp fails
            print(f"{name}  loss {loss:.4f} nats per token, perplexity {perplexity:.2f}")
            row |= {f"{name} loss": f"{loss:.4f}", f"{name} perplexity": f"{perplexity:.2f}"}
    print(f"floor     {entropy_floor(training):.4f}: no model that cannot see the future "
          "has a lower training loss")
    sampling = args.max_new_tokens, args.temperature, args.top_k, args.top_p
    texts = [generate(args.prompt, model, vocab, *sampling) for _ in range(args.samples)]
    for text in texts:
        is_new = vocab.split(text) not in map(vocab.split, lines)
        print(f"text      {text}" + "  (new)" * is_new)
    return row | {"seconds": f"{seconds:.1f}", "completion": texts[0]}


def main(argv=None):
    """Train, evaluate, complete and draw, as the options say; --help lists them.

    Returns the GPT, its vocabulary, and the attention weights of the (first) completed text.
    """
    if argv is None:  # sys.argv counts if it names this file; in a notebook it is the kernel's
        is_ours = Path(sys.argv[0]).name == Path(globals().get("__file__", "")).name
        argv = sys.argv[1:] if is_ours else []
    parser = option_parser()
    args = parser.parse_args(argv)
    try:
        lines, vocab, training, held_out, models = prepare(args)
    except UnicodeDecodeError as error:
        parser.error(f"{args.data} is not UTF-8 text: {error}")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))

    print(f"data      {len(lines):,} lines, {count_predictions(training):,} tokens to predict, "
          f"vocabulary of {len(vocab):,}")
    try:
        rows = [learn(model, args, lines, vocab, training, held_out) for model in models]
    except FloatingPointError as error:
        parser.error(str(error))
    if len(rows) > 1:
        for cells in zip(rows[0], *(row.values() for row in rows)):  # a line per figure
            print("  ".join(cell.ljust(26) for cell in cells).rstrip())

    gpt = models[0]
    ids = [DELIMITER_ID, *vocab.encode(rows[0]["completion"])][-gpt.context_length:]
    with torch.no_grad():
        _, attention_weights = gpt(torch.tensor([ids], device=args.device))
    figure = plot_attention(attention_weights, tokens=[vocab.tokens[i] for i in ids])
    figure.savefig(args.plot, dpi=150)
    print(f"picture   {args.plot}")
    return gpt, vocab, attention_weights


if __name__ == "__main__":
    model, vocab, attention_weights = main()
