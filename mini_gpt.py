"""Mini GPT: a decoder-only Transformer in one file, to be read from top to bottom.

    python mini_gpt.py            learns six sentences, completes "deep", draws its attention
    python mini_gpt.py --help     lists the options

The file follows the data: text becomes tokens, tokens become vectors, vectors become
predictions, predictions become a loss, the loss becomes learning, and what was learned
becomes text and a picture. If you have time for one class only, read MaskedSelfAttention.

Letters in the shape comments, the same everywhere:
    B  batch: sequences side by side        H  attention heads
    T  time: tokens in a sequence           V  vocabulary size
    C  channels: numbers per token (embed_dim)
"""

import argparse
import math
import random
import sys
import time
from contextlib import contextmanager
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
    """The words of some lines of text, numbered; id 0 is the delimiter.

    Raises ValueError where text contains a word that is not numbered, or the delimiter itself.
    """

    def __init__(self, lines):
        words = {word for line in lines for word in self.split(line)}
        self.tokens = [DELIMITER] + sorted(words)
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def split(self, text):
        if DELIMITER in text:
            raise ValueError(f"text must not contain {DELIMITER}, which marks the ends of a line")
        return text.split()

    def encode(self, text):
        """Text to a list of ids, without delimiters."""
        words = self.split(text)
        for word in words:
            if word not in self.ids:
                raise ValueError(f"unknown word {word!r}: not one of the {len(self) - 1} words "
                                 f"learned from the data, such as {self.tokens[1]!r}")
        return [self.ids[word] for word in words]

    def decode(self, ids):
        """A list of ids to text; a delimiter shows as itself."""
        return " ".join(self.tokens[i] for i in ids)


# ---------------------------------------------------------------- tokens become vectors


def causal_mask(seq_len, device=None):
    """Bool (T, T), True where attention is forbidden: row t must not look at columns after t."""
    return torch.triu(torch.ones(seq_len, seq_len, device=device), diagonal=1).bool()


class MaskedSelfAttention(nn.Module):
    """Multi-head causal self-attention ("Attention Is All You Need", Vaswani et al. 2017)."""

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        if embed_dim % num_heads != 0:
            raise ValueError(f"embed_dim {embed_dim} cannot be divided among {num_heads} heads: "
                             "it must be a multiple of num_heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # three projections in one product
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        """x (B, T, C) -> out (B, T, C), weights (B, H, T, T); each row of weights sums to 1."""
        B, T, C = x.shape
        head_size = C // self.num_heads

        # Query: what a token looks for. Key: what it offers. Value: what it passes on. Every head
        # works on its own slice of their channels: (B, T, 3C) -> (3, B, H, T, head_size).
        qkv = self.qkv(x).view(B, T, 3, self.num_heads, head_size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, head_size)

        # A dot product of head_size terms has a spread of sqrt(head_size); divided by that,
        # the softmax starts out soft enough to learn.
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)  # (B, H, T, T)
        scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))
        weights = F.softmax(scores, dim=-1)  # exp(-inf) = 0: the future gets no weight at all

        out = self.dropout(weights) @ v  # (B, H, T, head_size)
        out = out.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.projection(out), weights


class GPTBlock(nn.Module):
    """Attention, then a feed-forward network, each added to a residual stream (pre-LN, as GPT-2)."""

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = MaskedSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(embed_dim, 4 * embed_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * embed_dim, embed_dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """x (B, T, C) -> x (B, T, C), attention weights (B, H, T, T)."""
        # Attention moves information between tokens ...
        attended, weights = self.attention(self.norm1(x))
        x = x + self.dropout(attended)
        # ... and the feed-forward network works on each token by itself.
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x, weights


# ---------------------------------------------------------------- vectors become predictions


class MiniGPT(nn.Module):
    """Token and position embeddings, a stack of blocks, and a score for every possible next token."""

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
        """idx (B, T) -> logits (B, T, V), a list with one (B, H, T, T) of weights per layer.

        The logits at position t score the token at t + 1. Raises ValueError if T > context_length.
        """
        T = idx.shape[1]
        if T > self.context_length:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        # Attention by itself does not know the order of its tokens: positions are learned vectors.
        positions = torch.arange(T, device=idx.device)  # (T,)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C)
        attention_weights = []
        for block in self.blocks:
            x, weights = block(x)
            attention_weights.append(weights)
        return self.head(self.norm(x)), attention_weights


# ---------------------------------------------------------------- predictions become a loss

NO_TARGET = -100  # cross_entropy skips such targets


def next_token_loss(model, sequences):
    """Mean cross-entropy, in nats per predicted token, of a batch of sequences of ids."""
    # Shorter sequences are filled up on the right. That needs no mask of its own: a real token
    # attends only to what is left of it, and what padding predicts is not counted.
    ids = pad_sequence([torch.tensor(sequence) for sequence in sequences],
                       batch_first=True, padding_value=NO_TARGET)
    ids = ids.to(next(model.parameters()).device)
    # Every token is the target of the token before it.
    inputs, targets = ids[:, :-1].clamp(min=0), ids[:, 1:]  # (B, T), (B, T)
    logits, _ = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)


# ---------------------------------------------------------------- the loss becomes learning


def train(model, sequences, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LEARNING_RATE):
    """Fit the model to sequences of ids (delimiters included); return the loss of every step.

    Prints about ten lines on the way, each with the mean loss since the line before.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    # The order of the lines has its own random stream: it must not depend on dropout's draws.
    order = random.Random(torch.initial_seed())
    total_steps = epochs * math.ceil(len(sequences) / batch_size)
    losses, tokens, reported = [], 0, 0
    start = shown = time.perf_counter()
    width = 79 if sys.stdout.isatty() else 0  # only a terminal can write over a line

    model.train()
    for epoch in range(1, epochs + 1):
        shuffled = order.sample(sequences, len(sequences))
        for first in range(0, len(shuffled), batch_size):
            batch = shuffled[first:first + batch_size]
            loss = next_token_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            losses.append(loss.item())
            tokens += sum(len(sequence) - 1 for sequence in batch)
            step, now = len(losses), time.perf_counter()
            line_is_due = step * 10 // total_steps > (step - 1) * 10 // total_steps
            if line_is_due or (width and now - shown > 1):
                recent = losses[reported:]
                line = (f"epoch {epoch:{len(str(epochs))}}/{epochs}  "
                        f"step {step:{len(str(total_steps))}}/{total_steps}  "
                        f"loss {sum(recent) / len(recent):.4f}")
                if line_is_due:
                    print(line.ljust(width))
                    reported = step
                else:
                    left = (now - start) / step * (total_steps - step)
                    line += f"  {tokens / (now - start):,.0f} tokens/s  {left:.0f} s left"
                    print(line.ljust(width), end="\r", flush=True)
                shown = now
    seconds = time.perf_counter() - start
    print(f"training  {seconds:.1f} s, {tokens / seconds:,.0f} tokens per second".ljust(width))
    return losses


# ---------------------------------------------------------------- what was learned becomes text


@contextmanager
def evaluating(model):
    """Inside: no dropout and no gradients. Afterwards: the mode that the model was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def generate(prompt, model, vocab, max_new_tokens=20):
    """Continue the prompt with the likeliest token, again and again; return prompt and continuation.

    Stops at a delimiter. An empty prompt starts a line. Raises ValueError for unknown words.
    """
    ids = [DELIMITER_ID] + vocab.encode(prompt)
    device = next(model.parameters()).device
    with evaluating(model):
        for _ in range(max_new_tokens):
            context = torch.tensor([ids[-model.context_length:]], device=device)  # (1, T)
            logits, _ = model(context)  # (1, T, V)
            next_id = torch.argmax(logits[:, -1, :]).item()  # only the last position is news
            if next_id == DELIMITER_ID:
                break
            ids.append(next_id)
    return vocab.decode(ids[1:])


# ---------------------------------------------------------------- what was learned becomes a picture


def plot_attention(attention_weights, layer=0, tokens=None):
    """Draw one heatmap per head: how much each token (row) attends to each (column).

    attention_weights: a list with one (B, H, T, T) per layer; of B, the first is drawn.
    tokens: T labels, otherwise positions are numbered. Returns the matplotlib Figure.
    Raises ValueError if there is no such layer or the labels are not T.
    """
    if not 0 <= layer < len(attention_weights):
        raise ValueError(f"no layer {layer}: there are {len(attention_weights)}, numbered from 0")
    weights = attention_weights[layer][0].detach().cpu()  # (H, T, T)
    H, T, _ = weights.shape
    labels = [str(t).replace("$", r"\$") for t in (range(T) if tokens is None else tokens)]
    if len(labels) != T:
        raise ValueError(f"{len(labels)} tokens given for attention among {T}")

    side = min(max(2.4, 0.5 * T), 6.0)  # of a panel, in inches
    fig = plt.figure(figsize=(H * side + 1.5, side + 1))
    for head in range(H):
        ax = fig.add_subplot(1, H, head + 1)
        sns.heatmap(weights[head].numpy(), mask=causal_mask(T).numpy(), vmin=0, vmax=1,
                    cmap="Blues", annot=T <= 10, fmt=".2f", annot_kws={"size": 8}, square=True,
                    linewidths=0.5, cbar=False, ax=ax,
                    xticklabels=labels, yticklabels=labels if head == 0 else False)
        ax.set_title(f"layer {layer}, head {head}")
        ax.tick_params(length=0)
        plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    fig.colorbar(ax.collections[0], ax=fig.axes, label="attention weight", shrink=0.7)
    fig.supxlabel("... attends to this token")
    fig.supylabel("this token ...")
    fig.set_layout_engine("constrained")
    return fig


# ---------------------------------------------------------------- the command line


def number(kind, accept, wanted):
    """An argparse type: an int or float (kind) that accept(value) is true of; wanted describes it."""
    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value
    return convert


def parse_options(argv):
    """Return the parser, for its error(), and the options."""
    at_least_one = number(int, lambda n: n >= 1, "a whole number of at least 1")
    devices = [name for name, is_here in [("cuda", torch.cuda.is_available()), ("cpu", True),
                                          ("mps", torch.backends.mps.is_available())] if is_here]
    parser = argparse.ArgumentParser(
        prog="mini_gpt.py", usage=argparse.SUPPRESS, allow_abbrev=False,
        description="Train a small GPT, complete a text with it, draw its attention.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    option = parser.add_argument
    option("--epochs", type=at_least_one, default=EPOCHS, help="times that each line is seen")
    option("--batch-size", type=at_least_one, default=BATCH_SIZE, help="lines in a training step")
    option("--lr", type=number(float, lambda x: 0 < x < math.inf, "a finite number above 0"),
           default=LEARNING_RATE, help="learning rate of Adam")
    option("--embed-dim", type=at_least_one, default=EMBED_DIM, help="channels, a multiple of heads")
    option("--heads", type=at_least_one, default=NUM_HEADS, help="attention heads in a layer")
    option("--layers", type=at_least_one, default=NUM_LAYERS, help="GPT blocks")
    option("--dropout", type=number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
           default=DROPOUT, help="share of activations dropped in training")
    option("--prompt", default="deep", help="text to complete")
    option("--max-new-tokens", type=at_least_one, default=20, help="longest continuation")
    option("--seed", type=number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1"),
           default=SEED, help="same seed, same output")
    option("--device", choices=devices, default=devices[0], help="where to compute")
    option("--plot", metavar="FILE", default="attention.png", help="where to save the picture")
    return parser, parser.parse_args(argv)


PICTURE_SUFFIXES = (".png", ".pdf", ".svg")


def main(argv=None):
    """Train on the sentences, complete the prompt, draw the attention. --help lists the options.

    Returns the model, its vocabulary, and the attention weights of the completed text.
    """
    if argv is None:  # sys.argv may be somebody else's: in a notebook it is the kernel's
        started_as = Path(globals().get("__file__", "")).name
        argv = sys.argv[1:] if Path(sys.argv[0]).name == started_as else []
    parser, args = parse_options(argv)
    torch.manual_seed(args.seed)
    try:  # whatever can be wrong with the options is found out before training
        vocab = Vocab(SENTENCES)
        vocab.encode(args.prompt)
        sequences = [[DELIMITER_ID, *vocab.encode(line), DELIMITER_ID] for line in SENTENCES]
        context_length = max(len(sequence) for sequence in sequences) - 1
        model = MiniGPT(len(vocab), context_length, args.embed_dim, args.heads, args.layers,
                        args.dropout).to(args.device)
        if Path(args.plot).suffix.lower() not in PICTURE_SUFFIXES:
            raise ValueError(f"{args.plot!r} is not a picture: the name must end in "
                             + ", ".join(PICTURE_SUFFIXES))
        open(args.plot, "ab").close()
    except ValueError as error:
        parser.error(error)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")

    num_tokens = sum(len(sequence) - 1 for sequence in sequences)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"data      {len(SENTENCES)} sentences, {num_tokens} tokens to predict, "
          f"vocabulary of {len(vocab)}")
    print(f"model     {num_parameters:,} parameters on {args.device}")
    train(model, sequences, args.epochs, args.batch_size, args.lr)
    text = generate(args.prompt, model, vocab, args.max_new_tokens)
    print(f"text      {text}")

    ids = [DELIMITER_ID, *vocab.encode(text)][-context_length:]
    with evaluating(model):
        _, attention_weights = model(torch.tensor([ids], device=args.device))
    figure = plot_attention(attention_weights, tokens=[vocab.tokens[i] for i in ids])
    figure.savefig(args.plot, dpi=150)
    print(f"picture   {args.plot}")
    return model, vocab, attention_weights


if __name__ == "__main__":
    model, vocab, attention_weights = main()
