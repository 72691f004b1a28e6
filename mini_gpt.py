"""Mini GPT: a decoder-only Transformer in one file, to be read from top to bottom.

    python mini_gpt.py         learns six sentences, completes "deep", draws attention
    python mini_gpt.py --help  lists the rest: your own text, sampling, held-out lines

A GPT predicts, after each token of a text (here: a word), the next one. The file
follows a batch of text on its way. This is what it becomes, and in which shape:

    ids      (B, T)     each token's number in the vocabulary
    vectors  (B, T, C)  one for each token, plus one for its position
    blocks   (B, T, C)  the same vectors, after each token has looked at the past
    logits   (B, T, V)  for each token, a score for every token that could come next
    loss     ()         how surprising the true next tokens were, on average

    B  batch: sequences side by side      C  channels: numbers per token (embed_dim)
    T  time: tokens in a sequence         H  attention heads         V  vocabulary size

What differs from GPT-2: PyTorch's default initialization, an output layer of its own
with a bias (GPT-2 reuses the token embedding), the exact GELU, dropout in the feed-forward
network but not on embeddings, plain Adam at a constant rate, and words or characters.
"""

import argparse
import math
import random
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

# ------------------------------------------------ data and hyperparameters
SENTENCES = """deep learning is powerful
deep learning is fun
transformers are powerful
attention is all you need
deep models learn representations
transformers use self attention""".split("\n")
EMBED_DIM = 32
NUM_HEADS = 4
NUM_LAYERS = 2
DROPOUT = 0.1  # share of the numbers that training sets to zero at random
LEARNING_RATE = 0.001
EPOCHS = 300  # how often each sentence is seen
BATCH_SIZE = 32  # sequences in a training step
SEED = 184  # "powerful" and "fun" tie after "deep learning is"; here "powerful" wins
THREADS = torch.get_num_threads()  # for a million parameters or more; else 1 is faster


class InputError(ValueError):
    """What the user typed or named can't be used: main says so in one line."""


# ------------------------------------------------ text becomes tokens
DELIMITER, DELIMITER_ID = "<|endoftext|>", 0  # before each line and after it


class Vocab:
    """The words of some lines of text, numbered from 1; with chars, the characters."""

    def __init__(self, lines, chars=False):
        self.chars = chars
        found = {token for line in lines for token in self.split(line)}
        if DELIMITER in found:
            raise InputError(f"the data has the word {DELIMITER}, which marks ends of lines")
        self.ids = {token: i for i, token in enumerate(sorted(found), start=1)}
        self.tokens = [DELIMITER, *self.ids]  # the way back: from an id to its token

    def split(self, text):
        """Text -> list of tokens."""
        return list(text) if self.chars else text.split()

    def encode(self, text):
        """Text -> list of ids, no delimiters. Raises ValueError if one is unknown."""
        for token in self.split(text):
            if token not in self.ids:
                raise InputError(f"{token!r} does not occur in the data (case matters)")
        return [self.ids[token] for token in self.split(text)]

    def decode(self, ids):
        """List of ids -> text; a delimiter shows as itself."""
        return ("" if self.chars else " ").join(self.tokens[i] for i in ids)


def make_sequences(encoded_lines, context_length):
    """Lines of ids -> sequences: up to context_length inputs, and one id more, a target.

    A delimiter opens and closes each line. Long lines are cut so that each token is
    predicted once: with a context of 3, `0 a b c d 0` becomes `0 a b c` and `c d 0`."""
    sequences = []
    for ids in encoded_lines:
        ids = [DELIMITER_ID, *ids, DELIMITER_ID]
        for start in range(0, len(ids) - 1, context_length):
            sequences.append(ids[start:start + context_length + 1])
    return sequences


def count_predictions(sequences):
    """How many tokens there are to predict: all but the first of each sequence."""
    return sum(len(ids) - 1 for ids in sequences)


# ------------------------------------------------ tokens attend to each other
def causal_mask(seq_len, device=None):
    """Bool (T, T), True where attention is forbidden: in row t, all columns after t."""
    return torch.triu(torch.ones(seq_len, seq_len, device=device), diagonal=1).bool()


class MaskedSelfAttention(nn.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017, "Attention Is All You Need").

    F.scaled_dot_product_attention would be faster, but doesn't return the weights.
    Raises ValueError if embed_dim is not a multiple of num_heads."""

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        if embed_dim % num_heads != 0:
            raise InputError(f"{embed_dim} channels can't be shared by {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # query, key and value in one
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        """x (B, T, C) -> out (B, T, C), weights (B, H, T, T) whose rows sum to 1."""
        B, T, C = x.shape
        H, head_size = self.num_heads, C // self.num_heads
        # Each token makes three vectors. Query: what it looks for. Key: what it can be
        # found by. Value: what it hands over to the tokens that look at it.
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, T, C)
        # Each head gets a share of q, k and v, each made from all of x. So a token can look
        # at several things at once, for no more parameters. @ uses the last two axes.
        q = q.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)
        k = k.view(B, T, H, head_size).transpose(1, 2)
        v = v.view(B, T, H, head_size).transpose(1, 2)

        # A score, query times key, says how well they fit. As a sum of head_size products,
        # it has a size of about the root of head_size. That is divided out, since large
        # scores make the softmax put nearly all weight on one token, where its gradient is
        # near 0: of 10 random keys of 64 channels, one gets 0.86, with the division 0.32.
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)  # (B, H, T, T)
        # The softmax makes a weight of 0 of each -inf. To set weights to 0 after it is too
        # late: the future was in the sum that divided the row, which won't sum to 1.
        scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))
        weights = F.softmax(scores, dim=-1)

        out = self.dropout(weights) @ v  # (B, H, T, head_size): weighted means
        out = out.transpose(1, 2).reshape(B, T, C)  # what the heads found, side by side
        return self.projection(out), weights  # mixed: each head may write to all channels


class GPTBlock(nn.Module):
    """Tokens inform each other (attention), then each thinks alone (feed-forward)."""

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = MaskedSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(embed_dim, 4 * embed_dim),  # room for many patterns; 4 as in 2017
            nn.GELU(),  # a smooth ReLU: without it, two layers can do no more than one
            nn.Dropout(dropout),
            nn.Linear(4 * embed_dim, embed_dim),
        )
        self.dropout = nn.Dropout(dropout)  # so the model can't rely on any number

    def forward(self, x):
        """x (B, T, C) -> x (B, T, C), attention weights (B, H, T, T)."""
        # Residual connections: both parts add to x. If attention replaced it, each block
        # would average the tokens; in a stack of 12, they are the same from block 7 on.
        # LayerNorm brings each vector to mean 0 and standard deviation 1, then scales and
        # shifts it by learned numbers. It comes before each part (in 2017, after the sum):
        # so x, and its gradient on the way back, pass the blocks through additions only.
        attended, weights = self.attention(self.norm1(x))
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x, weights


# ------------------------------------------------ tokens become predictions
class MiniGPT(nn.Module):
    """Token and position embeddings, a stack of blocks, a score for each next token."""

    def __init__(self, vocab_size, context_length, embed_dim=EMBED_DIM,
                 num_heads=NUM_HEADS, num_layers=NUM_LAYERS, dropout=DROPOUT):
        super().__init__()
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size, embed_dim)
        self.position_embedding = nn.Embedding(context_length, embed_dim)
        self.blocks = nn.ModuleList(
            GPTBlock(embed_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)  # x has grown with each addition
        self.lm_head = nn.Linear(embed_dim, vocab_size)

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, V), attention weights: a (B, H, T, T) per layer.

        The logits at t are for the token at t + 1. Raises ValueError if T is too large."""
        T = ids.shape[1]
        if T > self.context_length:
            raise ValueError(f"{T} tokens exceed the context of {self.context_length}")
        # A weighted mean is the same in any order, so a layer of attention can't tell the
        # order of the past. Each position adds a vector of its own, learned as well.
        positions = torch.arange(T, device=ids.device)  # (T,)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (B, T, C)
        attention_weights = []
        for block in self.blocks:
            x, weights = block(x)
            attention_weights.append(weights)
        return self.lm_head(self.norm(x)), attention_weights


# ------------------------------------------------ predictions become a loss
def collate(sequences):
    """Sequences of ids -> inputs (B, T) and targets (B, T), the id after each input."""
    # Short sequences are filled up on the right: with targets of -100, which cross_entropy
    # leaves out, and inputs of 0 (any id would do, as no token looks to its right).
    rows = [torch.tensor(ids) for ids in sequences]
    ids = pad_sequence(rows, batch_first=True, padding_value=-100)  # (B, T + 1)
    return ids[:, :-1].clamp(min=0), ids[:, 1:]


def next_token_loss(model, inputs, targets):
    """Mean cross-entropy in nats per token: a target of probability p costs -ln(p) nats.

    Raises ValueError if it is not finite."""
    device = next(model.parameters()).device
    # All T positions learn at once: each is given the true past, whatever the model
    # would have said itself (teacher forcing), and the mask hides the answer from it.
    logits, _ = model(inputs.to(device))  # (B, T, V)
    # cross_entropy takes logits (B * T, V) and targets (B * T,): the softmax is inside.
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten().to(device))
    if not loss.isfinite():
        raise InputError(f"the loss is {loss:f}: lower the learning rate (--lr), or check the mask")
    return loss


@torch.no_grad()
def evaluate(model, sequences, batch_size=BATCH_SIZE):
    """Mean loss without dropout, in nats per token; the model is left in eval mode."""
    model.eval()
    nats = 0.0
    for inputs, targets in DataLoader(sequences, batch_size, collate_fn=collate):
        n = (targets >= 0).sum().item()  # without the padding
        nats += n * next_token_loss(model, inputs, targets).item()
    return nats / count_predictions(sequences)


def entropy_floor(sequences):
    """The lowest loss of a model that can't see the future, in nats per token.

    The six sentences are equally likely, so who knows them by heart gives each 1/6 and
    pays ln 6 nats. They have 30 tokens to predict: 6 ln 6 / 30 = 0.3584. (This needs the
    closing delimiter: no sequence may be the beginning of another.)"""
    copies = Counter(map(tuple, sequences))
    starts = Counter(ids[0] for ids in sequences)  # the first token needs no prediction
    nats = sum(n * -math.log(n / starts[ids[0]]) for ids, n in copies.items())
    return nats / count_predictions(sequences)


# ------------------------------------------------ the loss becomes learning
def train(model, sequences, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LEARNING_RATE):
    """Fit the model to the sequences; return the loss of each step, in nats per token.

    Ctrl-C ends it early and keeps what was learned. The model is left in eval mode."""
    loader = DataLoader(sequences, batch_size, shuffle=True, collate_fn=collate)
    steps = epochs * len(loader)
    every = math.ceil(steps / 10)  # ten lines tell how it goes
    losses = []
    model.train()  # dropout on
    try:
        # fused: one operation updates all parameters, and saves about a fifth of the time.
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        for _ in range(epochs):
            for inputs, targets in loader:
                loss = next_token_loss(model, inputs, targets)
                optimizer.zero_grad()  # or the last step's gradients would be added
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if len(losses) % every == 0 or len(losses) == steps:
                    mean = sum(losses[-every:]) / every
                    print(f"step {len(losses):8}/{steps}  loss {mean:.4f}", flush=True)
    except KeyboardInterrupt:
        print(f"stopped at step {len(losses)}")
    model.eval()  # dropout off
    return losses


# ------------------------------------------------ learning becomes text
def sampling_probabilities(logits, temperature=1.0, top_k=None, top_p=1.0):
    """Logits (V,) -> probabilities (V,), the sharper the lower the temperature.

    top_k keeps that many tokens, top_p the fewest of them that together reach this
    probability (nucleus sampling, Holtzman et al. 2019). Raises ValueError if out of range."""
    if not (temperature > 0 and (top_k is None or top_k > 0) and 0 < top_p <= 1):
        raise InputError("sampling needs temperature > 0, top_k > 0 and 0 < top_p <= 1")
    ordered, ids = logits.cpu().double().sort(descending=True)  # the likeliest first
    # Subtracting the largest logit changes no probability, and so exp cannot overflow.
    kept = F.softmax((ordered[:top_k] - ordered[0]) / temperature, dim=-1)  # (top_k,)
    sum_of_likelier = kept.cumsum(dim=-1) - kept  # so the one that reaches top_p stays
    kept[sum_of_likelier >= top_p] = 0.0
    # scatter puts each probability back in its place in the vocabulary.
    return torch.zeros_like(ordered).scatter(0, ids[:top_k], kept / kept.sum())


@torch.no_grad()
def generate(prompt, model=None, vocab=None, max_new_tokens=20, temperature=0.0,
             top_k=None, top_p=1.0):
    """Continue the prompt token by token until a delimiter; return all of it as text.

    Temperature 0 takes the likeliest token (greedy), above 0 it samples. In a notebook,
    model and vocab default to those of the last run. The model is left in eval mode.
    Raises ValueError for an unknown token, or sampling that makes no sense."""
    model = model or globals().get("model")  # in a notebook, the last run's
    vocab = vocab or globals().get("vocab")
    if model is None or vocab is None:
        raise InputError('pass a trained model: generate("deep", model, vocab)')
    ids = [DELIMITER_ID, *vocab.encode(prompt)]
    model.eval()
    # Only the past exists here, so tokens come one by one, each from all of it anew. A KV
    # cache would keep its keys and values, at the price of a second way through the model.
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-model.context_length:]])  # (1, T), cropped
        logits, _ = model(context.to(next(model.parameters()).device))  # (1, T, V)
        if temperature == 0:
            next_id = torch.argmax(logits[:, -1, :]).item()
        else:
            odds = sampling_probabilities(logits[0, -1], temperature, top_k, top_p)
            next_id = torch.multinomial(odds, num_samples=1).item()
        if next_id == DELIMITER_ID:
            break
        ids.append(next_id)
    return vocab.decode(ids[1:])


# ------------------------------------------------ learning becomes a picture
def plot_attention(attention_weights, layer=0, tokens=None):
    """Draw a heatmap for each head of a layer: who (row) looks at whom (column).

    attention_weights: a (B, H, T, T) per layer; the first of B is drawn. tokens: T words.
    It becomes pyplot's current figure: plt.savefig("x.png") keeps it."""
    weights = attention_weights[layer][0].detach().cpu()  # (H, T, T)
    H, T, _ = weights.shape
    blank = causal_mask(T) & (weights == 0)  # the future, unless the model saw it
    every = math.ceil(T / 40)  # more than 40 labels could not be read
    places = [t + 0.5 for t in range(0, T, every)]
    labels = [str(t).replace(" ", "␣").replace("\t", "⇥") for t in tokens or range(T)][::every]
    side = min(max(2.4, 0.5 * T), 6.0)  # of a panel, in inches
    fig, axes = plt.subplots(1, H, figsize=(H * side + 1.5, side + 1), sharey=True, squeeze=False)
    for head, ax in enumerate(axes[0]):
        sns.heatmap(weights[head], mask=blank[head].numpy(), vmin=0, vmax=1,
                    cmap="Blues", annot=T <= 12, fmt=".2f", square=True, cbar=False,
                    xticklabels=False, yticklabels=False, ax=ax)
        ax.set_title(f"layer {layer}, head {head}")
    style = {"labels": labels, "parse_math": False}  # $ starts no formula
    for ax in axes[0]:  # not in the loop above, where seaborn draws all each time
        ax.set_xticks(places, rotation=45, ha="right", rotation_mode="anchor", **style)
        ax.set_yticks(places, **style)
        ax.tick_params(length=0)  # a tick before a number would look like a minus
    fig.set_layout_engine("constrained")
    fig.colorbar(ax.collections[0], ax=axes, label="attention weight", shrink=0.7)
    fig.supylabel("this token ...")
    fig.supxlabel("... attends to this token")


# ------------------------------------------------ the command line
def between(kind, least, most=2**31 - 1):
    """Return a type for argparse: a number of this kind, from least to most."""
    def number(text):
        if not least <= kind(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {least} to {most}")
        return kind(text)
    number.__name__ = kind.__name__  # for argparse's own "invalid int value"
    return number


def read_options(argv):
    """Arguments -> options. Raises argparse.ArgumentError if one is wrong."""
    parser = argparse.ArgumentParser("mini_gpt.py", usage=argparse.SUPPRESS, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, exit_on_error=False)
    count, share, size = between(int, 1), between(float, 0, 1), between(float, 0)
    add = parser.add_argument_group("data").add_argument
    add("--data", type=Path, metavar="FILE", help="UTF-8 text, one example a line")
    add("--chars", action="store_true", help="make tokens of characters, not words")
    add("--holdout", type=share, default=0.0, help="share of the lines to test on")
    add = parser.add_argument_group("model").add_argument
    add("--embed-dim", type=count, default=EMBED_DIM, help="channels of a token")
    add("--heads", type=count, default=NUM_HEADS, help="attention heads in a layer")
    add("--layers", type=count, default=NUM_LAYERS, help="GPT blocks")
    add("--dropout", type=share, default=DROPOUT, help="share of zeros in training")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, default=EPOCHS, help="how often each line is seen")
    add("--batch-size", type=count, default=BATCH_SIZE, help="sequences in a step")
    add("--lr", type=size, default=LEARNING_RATE, help="learning rate of Adam")
    add("--seed", type=between(int, 0), default=SEED, help="same seed, same output on one machine")
    add("--device", default="cpu", choices=["cpu", "cuda", "mps"], help="where to compute")
    add = parser.add_argument_group("generation").add_argument
    add("--prompt", help='text to complete; None: "deep", or with --data ""')
    add("--max-new-tokens", type=count, default=20, help="longest continuation")
    add("--temperature", type=size, default=0.0, help="0: greedy; above 0: sample")
    add("--top-k", type=count, help="sample from the k likeliest tokens")
    add("--top-p", type=between(float, 1e-6, 1), default=1.0, help="from the fewest that sum to p")
    add("--samples", type=count, default=1, help="texts to generate")
    add("--plot", type=Path, metavar="FILE", default="attention.png", help="picture")
    return parser.parse_args(argv)


def prepare(options):
    """Options -> vocabulary, prompt, training and held-out sequences, new model."""
    if options.temperature == 0 and (options.top_k or options.top_p < 1 or options.samples > 1):
        raise InputError("--top-k, --top-p and --samples need a --temperature above 0")
    if not torch.get_device_module(options.device).is_available():
        raise InputError(f"--device {options.device} is not available here")
    if options.plot.suffix not in (".png", ".pdf", ".svg") or not options.plot.parent.is_dir():
        raise InputError(f"--plot {options.plot} is no .png, .pdf or .svg in a folder that exists")
    lines = options.data.read_text("utf-8-sig").split("\n") if options.data else SENTENCES
    prompt = "deep" if options.prompt is None and not options.data else options.prompt or ""
    vocab = Vocab(filter(str.strip, lines), options.chars)  # without the blank lines
    vocab.encode(prompt)  # an unknown word is refused now, and not after the training
    encoded = [tuple(vocab.encode(line)) for line in lines if line.strip()]
    distinct = sorted(set(encoded))  # copies of a held-out line are held out, too
    n = math.ceil(options.holdout * len(distinct))
    if n == len(distinct):
        raise InputError(f"the data is empty, or --holdout takes all of its {n} distinct lines")
    test = set(random.Random(options.seed).sample(distinct, n))
    context = min(128, 1 + max(map(len, encoded)))  # the longest line, within bounds
    training = make_sequences([ids for ids in encoded if ids not in test], context)
    held_out = make_sequences([ids for ids in encoded if ids in test], context)
    torch.manual_seed(options.seed)
    model = MiniGPT(len(vocab.tokens), context, options.embed_dim, options.heads,
                    options.layers, options.dropout)
    return vocab, prompt, training, held_out, model.to(options.device)


def run(options):
    """Train, evaluate, complete and draw, and print what comes of it."""
    vocab, prompt, training, held_out, model = prepare(options)
    V, parameters = len(vocab.tokens), sum(p.numel() for p in model.parameters())
    torch.set_num_threads(1 if parameters < 1_000_000 else THREADS)
    print(f"data      {count_predictions(training):,} tokens to predict, vocabulary of {V:,}")
    print(f"floor     {entropy_floor(training):.4f} nats/token; guessing costs {math.log(V):.4f}")
    print(f"model     {parameters:,} parameters on {options.device}", flush=True)
    torch.manual_seed(options.seed)
    train(model, training, options.epochs, options.batch_size, options.lr)
    for name, sequences in [("training", training), ("held-out", held_out)]:
        if sequences:
            loss = evaluate(model, sequences)
            print(f"{name}  loss {loss:.4f}, perplexity {torch.tensor(loss).exp():.2f}")
            if loss < entropy_floor(sequences) - 0.0001:
                print("bug?      below the floor: check mask, targets, softmax axis")
    sampling = options.max_new_tokens, options.temperature, options.top_k, options.top_p
    texts = [generate(prompt, model, vocab, *sampling) for _ in range(options.samples)]
    encoding = sys.stdout.encoding or "utf-8"
    for text in texts:  # "?" stands for what can't be shown here
        print("text     ", text.encode(encoding, "replace").decode(encoding))
    ids = [DELIMITER_ID, *vocab.encode(texts[0])][-model.context_length:]
    tokens = [vocab.tokens[i] for i in ids]
    with torch.no_grad():
        _, attention_weights = model(torch.tensor([ids], device=options.device))
    plot_attention(attention_weights, tokens=tokens)
    plt.savefig(options.plot, dpi=150)
    print(f"picture   {options.plot}")
    return model, vocab, tokens, attention_weights


def main(argv=()):
    """Do what the options say; return model, vocab, tokens, their attention weights."""
    argv = argv.split() if isinstance(argv, str) else argv
    try:
        return run(read_options(argv))
    except (argparse.ArgumentError, InputError, OSError, UnicodeError) as error:
        status, message = 2, f"mini_gpt.py: error: {error}"
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    print(message, file=sys.stderr)  # not in the except: Colab can't show an exit there
    sys.exit(status)


if __name__ == "__main__":
    # A notebook has no options for us: there, sys.argv holds those of its kernel.
    is_script = Path(sys.argv[0]).name in (globals().get("__file__") or "")
    model, vocab, tokens, attention_weights = main(sys.argv[1:] if is_script else [])
