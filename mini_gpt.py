"""Mini GPT: a GPT in one file, to be read from top to bottom.

    python mini_gpt.py         learns six sentences in a second or so,
                               completes "deep" into one of them, and
                               draws which words attend to which words
    python mini_gpt.py --help  your own text, sampling, held-out lines

A Transformer is a neural network in which the tokens of a text (here
words) look at each other. In a decoder-only Transformer no token looks
ahead: each one looks at itself and at those before it. So it can predict
the next token. To write, it predicts one, appends it, and predicts again.
GPT: generative (it writes), pre-trained (on texts), Transformer.

If you are in a hurry, read three classes: MaskedSelfAttention, GPTBlock
and MiniGPT. They are the model. Everything else feeds it, teaches it, or
lets it speak.

The file follows a text on its way through the model, where it takes these
shapes:

    ids      (B, T)     each token's number in the vocabulary
    vectors  (B, T, C)  C numbers that stand for a token and its position
    blocks   (B, T, C)  the vectors, after the tokens looked at each other
    logits   (B, T, V)  after each token, a number for each candidate
    loss     ()         how surprising the true next tokens were, on average

    B  batch: sequences side by side
    T  time: tokens in a sequence
    C  channels: numbers that stand for a token (embed_dim)
    V  vocabulary: how many different tokens there are
    H  attention heads, which divide the channels among themselves
"""

import argparse
import math
import os
import random
import shlex
import sys
import time
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
SENTENCES = [
    "deep learning is powerful",
    "deep learning is fun",
    "transformers are powerful",
    "attention is all you need",
    "deep models learn representations",
    "transformers use self attention",
]

EMBED_DIM = 32  # how many numbers stand for a token?
NUM_HEADS = 4  # how many questions can a token ask in a block?
NUM_LAYERS = 2  # how many blocks are there?
DROPOUT = 0.1  # what fraction of numbers is set to 0 while training?
LEARNING_RATE = 0.001  # about how far does a step move a parameter?
EPOCHS = 300  # how many times is each sentence seen?
BATCH_SIZE = 32  # how many sequences are in a step? (all six fit into one)

# Any seed works. Processors differ in how they draw, and so in the digits
SEED = 184


class InputError(ValueError):
    """A mistake by the user, which main reports in one line."""


# ------------------------------------------------ text becomes tokens
DELIMITER = "<|endoftext|>"  # between texts: it ends one and starts the next
DELIMITER_ID = 0


class Vocab:
    """The different words of the lines, numbered from 1.

    Number 0 is the delimiter. With chars=True, the tokens are characters
    instead of words. Raises InputError if a word is the delimiter.
    """

    def __init__(self, lines, chars=False):
        self.chars = chars

        # Collect each token once
        found = {token for line in lines for token in self.split(line)}
        if DELIMITER in found:
            raise InputError(f"the data has the word {DELIMITER}, which ends lines")

        # From token to id, and back
        self.ids = {token: i for i, token in enumerate(sorted(found), start=1)}
        self.tokens = [DELIMITER, *self.ids]

    def split(self, text):
        """Text -> list of tokens."""
        return list(text) if self.chars else text.split()

    def encode(self, text):
        """Text -> list of ids, without delimiters.

        Raises InputError for a token that is not in the vocabulary.
        """
        tokens = self.split(text)
        for token in tokens:
            if token not in self.ids:
                raise InputError(f"{token!r} does not occur in the data"
                                 " (case and punctuation matter)")
        return [self.ids[token] for token in tokens]

    def decode(self, ids):
        """List of ids -> text."""
        separator = "" if self.chars else " "
        return separator.join(self.tokens[i] for i in ids)


def make_sequences(encoded_lines, context_length):
    """Lines of ids -> sequences of at most context_length + 1 ids.

    Of a sequence, all ids but the last will be inputs, and all but the
    first will be targets. So it has one id more than the context.

    Each line gets a delimiter before it, so that its first token can be
    predicted, and one after it, so that the model learns where to stop.

    A line that is too long for the context is cut into pieces. The last id
    of a piece is the first of the next, so that each token is predicted
    once. With a context of 3: 0 a b c d 0  ->  0 a b c  and  c d 0
    """
    sequences = []
    for ids in encoded_lines:
        ids = [DELIMITER_ID, *ids, DELIMITER_ID]
        for start in range(0, len(ids) - 1, context_length):
            sequences.append(ids[start:start + context_length + 1])
    return sequences


def count_predictions(sequences):
    """How many tokens are predicted: all but the first of each sequence."""
    return sum(len(ids) - 1 for ids in sequences)


# ------------------------------------------------ tokens look at each other
def causal_mask(seq_len, device=None):
    """Who must not look at whom: bool (T, T), True where it is forbidden.

    Row: the token that looks. Column: the token that is looked at. (Start
    and end are the delimiter.)

                    start  deep  learning  is  powerful
        start         .     X       X      X      X      predicts "deep"
        deep          .     .       X      X      X      predicts "learning"
        learning      .     .       .      X      X      predicts "is"
        is            .     .       .      .      X      predicts "powerful"
        powerful      .     .       .      .      .      predicts the end

    In training the whole sentence is there. Without the mask, each row but
    the last could read its answer in the column of the next token, and the
    model would learn nothing else. With it, each row is an honest task. The
    six sentences make 30 of them: 24 words and 6 ends.
    """
    ones = torch.ones(seq_len, seq_len, device=device)
    return torch.triu(ones, diagonal=1).bool()  # keeps what is up and right


class MaskedSelfAttention(nn.Module):
    """Multi-head causal self-attention: tokens collect what they look for.

    Think of a library. A token comes with a question, its query. Each token
    before it, and the token itself, is a shelf. The shelf has a label, its
    key, and something to give, its value. The better the label fits the
    question, the larger the share that is taken from the shelf. The token
    goes home with a weighted mean of the values:

        attention(q, k, v) = softmax(mask(q @ k^T / sqrt(d))) @ v

    A score says how well a key fits a query: q @ k^T multiplies the two
    channel by channel and adds up, and d is how many channels they have.
    The softmax turns each row of scores into weights. It takes e to the
    power of each score, and divides by the sum of these in the row.

    The weights are computed anew for each text. What is learned are the
    layers: one makes q, k and v, one mixes what the heads have found.

    Self: queries, keys and values are all made from the same text.
    Causal: a token looks at itself and at the tokens before it.
    Multi-head: a token asks H questions at once. Each head has its own
    d = C / H channels, so H heads need no more parameters than one.

    Raises InputError if embed_dim is not a multiple of num_heads.
    Source: Vaswani et al. 2017, "Attention Is All You Need".
    """

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        if embed_dim % num_heads != 0:
            raise InputError(f"{embed_dim} channels don't split into {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # all three in one layer
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        """x (B, T, C) -> out (B, T, C), attention weights (B, H, T, T).

        Why the root? Without it, a score is a sum of d products. Plus and
        minus cancel in part, so it is about as large as the root of d, just
        as 100 random steps to the left or right end about 10 from the
        start. Large scores make the softmax pick one token. For a query and
        ten keys of 64 random numbers (mean 0, deviation 1), the largest of
        the ten weights is 0.86 on average, and 0.32 with the root. Small
        heads need the root less.

        Why mask before the softmax? e to the power of -inf is 0, and the
        weights that are left still sum to 1. If weights were set to 0 after
        the softmax, the future would be in the sum that divided the row.
        """
        B, T, C = x.shape
        H = self.num_heads
        head_size = C // H

        # Make queries, keys and values
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, T, C)

        # Split the channels into heads
        q = q.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)
        k = k.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)
        v = v.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)

        # Score how well each key fits each query
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)  # (B, H, T, T)

        # Hide the future
        scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))

        # Turn each row of scores into weights that sum to 1
        weights = F.softmax(scores, dim=-1)  # (B, H, T, T)

        # Collect the values: a weighted mean for each token
        out = self.dropout(weights) @ v  # (B, H, T, head_size)

        # Put the heads side by side again
        out = out.transpose(1, 2).reshape(B, T, C)  # (B, T, C)

        # Mix the heads: each new channel is a learned sum of all channels
        return self.projection(out), weights


class GPTBlock(nn.Module):
    """First the tokens look at each other, then each one thinks by itself.

    Residual connections: a block adds to x and doesn't replace it, so it
    has to learn only a correction. On the way forward, each token keeps its
    own vector, while attention alone would average the tokens until all are
    alike. On the way back, an addition hands the gradient (see train) on to
    the first block. Without those around attention, 12 blocks learn in 60
    epochs little but how often each word comes.

    LayerNorm: shifts and scales the vector of each token to mean 0 and
    standard deviation 1, so that what comes next reads numbers of a steady
    size. (Learned numbers then scale and shift each channel.) It stands
    before attention and before the feed-forward network, so that x itself
    passes through additions only. In the paper of 2017 it stood after the
    addition, and training had to start very slowly.

    Feed-forward network: the same two layers for each token by itself.
    Attention moves values between tokens, but it only takes their mean.
    Combining them into something new needs a function that bends: GELU, a
    smooth ReLU. Without a bend, two linear layers can do no more than one.

    Dropout: in training, each number that passes it is set to 0 with the
    probability dropout, and the others are scaled up to make up for it. So
    the model can't rely on any single number.
    """

    def __init__(self, embed_dim, num_heads, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = MaskedSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(embed_dim, 4 * embed_dim),  # 4 times as wide, as in 2017
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * embed_dim, embed_dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """x (B, T, C) -> x (B, T, C), attention weights (B, H, T, T)."""
        # Look: add what attention collects
        attended, weights = self.attention(self.norm1(x))
        x = x + self.dropout(attended)

        # Think: add what the feed-forward network makes of it
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x, weights


# ------------------------------------------------ tokens become predictions
class MiniGPT(nn.Module):
    """Embeddings, a stack of blocks, and logits for the next token.

    An embedding is a table (V, C): each id picks a row. (This is the same
    as a one-hot vector, with a 1 at the id, times the table.) The rows
    start at random, and are learned like all other parameters.

    Positions have a table of their own, since a mean doesn't tell in which
    order its values came. Without positions, the "." of "dog bites man ."
    and of "man bites dog ." would collect the same in the first block.
    """

    def __init__(self, vocab_size, context_length, embed_dim=EMBED_DIM,
                 num_heads=NUM_HEADS, num_layers=NUM_LAYERS, dropout=DROPOUT):
        super().__init__()
        self.context_length = context_length  # the most tokens it can look at
        self.token_embedding = nn.Embedding(vocab_size, embed_dim)
        self.position_embedding = nn.Embedding(context_length, embed_dim)
        self.blocks = nn.ModuleList(
            GPTBlock(embed_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.lm_head = nn.Linear(embed_dim, vocab_size)  # not an attention head

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, V), a list of attention weights.

        The logits at position t are for the token at position t + 1. The
        softmax turns them into probabilities. The list has one tensor
        (B, H, T, T) for each block. Raises ValueError if T is more than
        context_length.
        """
        B, T = ids.shape
        if T > self.context_length:
            raise ValueError(f"{T} tokens exceed the context of {self.context_length}")

        # Add what each token is and where it stands
        positions = torch.arange(T, device=ids.device)  # (T,)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (B, T, C)

        # Let the tokens look and think, block after block
        attention_weights = []
        for block in self.blocks:
            x, weights = block(x)  # (B, T, C), (B, H, T, T)
            attention_weights.append(weights)

        # Bring x to a steady size (each block has added to it), and predict
        logits = self.lm_head(self.norm(x))  # (B, T, V)
        return logits, attention_weights


# ------------------------------------------------ predictions become a loss
def collate(sequences):
    """Sequences of ids -> inputs (B, T) and targets (B, T).

    The targets are the same sequences, shifted by one: the target of each
    input is the token after it. For "deep learning is powerful":

        sequence  0 4 8 6 11 0
        inputs    0 4 8 6 11
        targets   4 8 6 11 0

    The rows of a tensor are equally long, so short rows are filled up on
    the right. Targets are filled with -100, which cross_entropy leaves out.
    Inputs are filled with 0. Any id would do: no token looks ahead at it,
    and what the model predicts after it is not counted.
    """
    inputs = [torch.tensor(ids[:-1]) for ids in sequences]
    targets = [torch.tensor(ids[1:]) for ids in sequences]
    return (pad_sequence(inputs, batch_first=True, padding_value=DELIMITER_ID),
            pad_sequence(targets, batch_first=True, padding_value=-100))


def next_token_loss(model, inputs, targets):
    """How surprising the true next tokens are, in nats per token.

    A next token to which the model gives the probability p costs -ln(p)
    nats: 0 if the model was sure of it, 0.69 for 1/2, 2.3 for 1/10. The
    mean of these costs, which is returned, is called cross-entropy.

    All positions are predicted at once. Each is given the true past, and
    not what the model itself would have written (teacher forcing).
    """
    device = next(model.parameters()).device  # where the model is: CPU or GPU
    logits, _ = model(inputs.to(device))  # (B, T, V)

    # cross_entropy takes one long list; the softmax is inside
    logits = logits.flatten(0, 1)  # (B * T, V)
    targets = targets.flatten().to(device)  # (B * T,)
    return F.cross_entropy(logits, targets)


@torch.no_grad()  # nothing is learned here, so gradients aren't needed
def evaluate(model, sequences, batch_size=BATCH_SIZE):
    """Mean loss over all predicted tokens, in nats per token.

    Dropout is off, or else each evaluation would give another result. The
    model is left in eval mode.
    """
    model.eval()  # dropout off
    nats = 0.0
    for start in range(0, len(sequences), batch_size):
        inputs, targets = collate(sequences[start:start + batch_size])

        # Batches differ in size, so add up nats and not means
        predictions = (targets != -100).sum().item()
        nats += predictions * next_token_loss(model, inputs, targets).item()
    return nats / count_predictions(sequences)


def entropy_floor(sequences):
    """The lowest loss, in nats per token, without seeing the future.

    Even a model that knows the six sentences by heart can't know which of
    them comes. The best it can do is to give each the probability 1/6. The
    probability of a sentence is the product of those of its tokens, so the
    costs of its tokens add up to -ln(1/6) = ln 6. That makes 6 ln 6 in all,
    and 0.3584 for each of the 30 tokens.

    The first id of a sequence is given, so a sequence competes only with
    those of the same first id. (The pieces of long lines differ in it.)
    """
    copies = Counter(tuple(ids) for ids in sequences)
    competitors = Counter(ids[0] for ids in sequences)

    nats = 0.0
    for ids, count in copies.items():
        nats += count * -math.log(count / competitors[ids[0]])
    return nats / count_predictions(sequences)


# ------------------------------------------------ the loss becomes learning
def progress(losses, steps, seconds):
    """One line on the training: step, loss, seconds.

    The loss is the mean of the last tenth of the steps. If it will take
    more than another minute, the line says how long.
    """
    step = len(losses)
    latest = losses[-max(1, steps // 10):]
    mean = sum(latest) / len(latest)
    line = f"step {step:8}/{steps}  loss {mean:.4f}  {seconds:5.1f} s"

    seconds_left = seconds / step * (steps - step)
    if seconds_left > 60:
        line += f", {seconds_left:.0f} s left"
    return line


def train(model, sequences, epochs=EPOCHS, batch_size=BATCH_SIZE,
          lr=LEARNING_RATE, watch=lambda: ""):
    """Fit the model to the sequences; return the loss of each step.

    Losses are in nats per token. The first step and each tenth of the steps
    print a line, which ends with the text that watch() returns.

    Adam is gradient descent with a memory. It moves each parameter against
    the mean of its latest gradients, divided by their usual size, times lr.
    So parameters with small gradients move as far as those with large ones.

    Ctrl-C ends the training early and keeps what was learned. The model is
    left in eval mode.
    """
    batches = DataLoader(sequences, batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = epochs * len(batches)
    report_at = {1, *(steps * tenth // 10 for tenth in range(1, 11))}
    losses = []

    # A small model is faster on one thread (several wait for each other)
    threads = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) < 1_000_000:
        torch.set_num_threads(1)

    started = time.perf_counter()
    try:
        for epoch in range(epochs):
            for inputs, targets in batches:
                # Predict, and measure how wrong the predictions are
                model.train()  # dropout on
                loss = next_token_loss(model, inputs, targets)
                losses.append(loss.item())

                # Compute the gradient: how each parameter changes the loss
                optimizer.zero_grad()  # or earlier steps' gradients are added
                loss.backward()

                # Move each parameter a little, so that the loss falls
                optimizer.step()

                # Tell how it goes
                if len(losses) in report_at:
                    line = progress(losses, steps, time.perf_counter() - started)
                    print(f"{line}  {watch()}", flush=True)
    except KeyboardInterrupt:
        print(f"stopped at step {len(losses)}")
    finally:
        torch.set_num_threads(threads)
    model.eval()  # dropout off
    return losses


# ------------------------------------------------ learning becomes text
def as_input(ids, model):
    """List of ids -> (1, T): the latest ids that fit into the context."""
    device = next(model.parameters()).device
    return torch.tensor([ids[-model.context_length:]], device=device)


@torch.no_grad()
def next_tokens(prompt, model, vocab, count=3):
    """What may follow the prompt: pairs of token and probability.

    This is all that a GPT can do. To write, it does this again and again.
    Raises InputError for a token that is not in the vocabulary.
    """
    ids = [DELIMITER_ID, *vocab.encode(prompt)]
    model.eval()  # dropout off
    logits, _ = model(as_input(ids, model))  # (1, T, V)

    # Only what follows the last token is unknown: take the last logits
    probabilities = F.softmax(logits[0, -1], dim=-1)  # (V,)
    likeliest = probabilities.argsort(descending=True)[:count]
    return [(vocab.tokens[i], probabilities[i].item()) for i in likeliest]


def sampling_probabilities(logits, temperature=1.0, top_k=None, top_p=1.0):
    """Logits (V,) -> the probabilities (V,) from which a token is drawn.

    Logits are divided by the temperature. Below 1, their differences grow,
    and the likeliest tokens become likelier. Above 1, probabilities even
    out. top_k keeps only the k likeliest tokens. top_p keeps the fewest of
    the likeliest whose probabilities reach p together (nucleus sampling,
    Holtzman et al. 2019).

    Raises InputError if one of these is out of range.
    """
    least = 1e-6
    if not (temperature >= least and (top_k is None or top_k >= 1)
            and least <= top_p <= 1):
        raise InputError(f"drawing needs a temperature of at least {least}, a top_k"
                         f" of at least 1, a top_p from {least} to 1")

    # Turn logits into probabilities, and put the likeliest first
    probabilities = F.softmax(logits / temperature, dim=-1)  # (V,)
    ordered, ids = probabilities.sort(descending=True)  # (V,), (V,)

    # Drop all after the first top_k
    if top_k is not None:
        ordered[top_k:] = 0.0

    # Drop a token if those before it already reach top_p of what is left
    if top_p < 1:
        sum_before = ordered.cumsum(dim=-1) - ordered
        ordered[sum_before >= top_p * ordered.sum()] = 0.0

    # Put each token back in its place, and let them sum to 1 again
    probabilities[ids] = ordered / ordered.sum()
    return probabilities


last_run = None, None  # the model of the last run, and its vocab


@torch.no_grad()
def generate(prompt, model=None, vocab=None, max_new_tokens=None,
             temperature=0.0, top_k=None, top_p=1.0):
    """Continue the prompt, token by token; return all of it as text.

    The text ends where the model chooses the delimiter, or else after
    max_new_tokens, by default as many as the model's context holds.

    Temperature 0 takes the likeliest token each time (greedy). Such a text
    may go in circles: what was said once is likely to be said again, and no
    chance breaks the circle. Above 0, a token is drawn, with the options of
    sampling_probabilities.

    Each step computes the whole text again. Since no token looks ahead, the
    keys and values of earlier tokens stay the same, and could be kept (a KV
    cache). But once the text is longer than the context, the context moves
    on, each token gets another learned position, and what was kept is wrong.

    Without model and vocab, those of the last run are used. The model is
    left in eval mode. Raises InputError for a token that is not in the
    vocabulary, and for options that make no sense.
    """
    if model is None and vocab is None:
        model, vocab = last_run
    if model is None or vocab is None:
        raise InputError('a model and its vocab must be passed: '
                         'generate("deep", model, vocab)')
    if temperature == 0 and (top_k is not None or top_p != 1):
        raise InputError("top_k and top_p need a temperature above 0")
    if max_new_tokens is None:
        max_new_tokens = model.context_length

    ids = [DELIMITER_ID, *vocab.encode(prompt)]
    model.eval()  # dropout off
    for _ in range(max_new_tokens):
        # Predict what follows each token
        logits, _ = model(as_input(ids, model))  # (1, T, V)

        # Choose what follows the last one
        if temperature == 0:
            next_id = torch.argmax(logits[:, -1, :]).item()
        else:
            probabilities = sampling_probabilities(
                logits[0, -1], temperature, top_k, top_p)  # (V,)
            next_id = torch.multinomial(probabilities, num_samples=1).item()

        # Stop at the delimiter, or append the token and go on
        if next_id == DELIMITER_ID:
            break
        ids.append(next_id)
    return vocab.decode(ids[1:])


# ------------------------------------------------ learning becomes a picture
def label(token):
    """A token as a label: at most 16 characters, blanks made visible."""
    text = str(token).replace(" ", "␣").replace("\t", "⇥")
    return text if len(text) <= 16 else text[:15] + "…"


def plot_attention(attention_weights, layer=0, tokens=None):
    """Draw who looks at whom: a heatmap for each head of a layer.

    attention_weights: a (B, H, T, T) per layer. The first of B is drawn.
    tokens: T words for the axes; if missing, numbers. Row: the token that
    looks. Column: the token that it looks at.

    In a notebook, plt.savefig("attention.png") in the same cell keeps it.
    """
    weights = attention_weights[layer][0].detach().cpu()  # (H, T, T)
    H, T, _ = weights.shape
    tokens = list(range(T)) if tokens is None else list(tokens)
    if len(tokens) != T:
        raise InputError(f"{len(tokens)} tokens can't label {T} rows of weights")

    # Leave the future blank, unless the model saw it
    blank = causal_mask(T) & (weights == 0)  # (H, T, T)

    # Label the tokens, but not more than 40 of them
    every = math.ceil(T / 40)
    places = [t + 0.5 for t in range(0, T, every)]
    labels = [label(token) for token in tokens[::every]]
    style = {"labels": labels, "parse_math": False}  # $ is only a $

    # Make room for a panel per head, four in a row
    columns = min(H, 4)
    rows = math.ceil(H / columns)
    side = min(max(2.4, 0.5 * T), 6.0)  # of a panel, in inches
    fig = plt.figure(figsize=(columns * side + 1.5, rows * (side + 1)))

    # Draw the weights of each head
    for head in range(H):
        ax = fig.add_subplot(rows, columns, head + 1)
        sns.heatmap(weights[head], mask=blank[head].numpy(), vmin=0, vmax=1,
                    cmap="Blues", annot=T <= 12, fmt=".2f", square=True,
                    cbar=False, xticklabels=False, yticklabels=False, ax=ax)
        ax.set_title(f"layer {layer}, head {head}")
        ax.set_visible(False)  # or the next heatmap draws it all over again

    # Write on the axes
    for head, ax in enumerate(fig.axes):
        ax.set_visible(True)
        ax.set_xticks(places, rotation=45, ha="right", rotation_mode="anchor", **style)
        ax.set_yticks(places, **style)
        ax.tick_params(length=0, labelleft=head % columns == 0)
    fig.set_layout_engine("constrained")
    fig.colorbar(ax.collections[0], ax=fig.axes, label="attention weight", shrink=0.7)
    fig.supylabel("this token ...")
    fig.supxlabel("... attends to this token")


# ------------------------------------------------ the whole story
def hold_out(encoded_lines, fraction, seed):
    """Lines of ids -> lines to train on, lines to test on.

    A model can learn its lines by heart. Lines that it never saw show
    whether it learned more than that. A part of the different lines is
    drawn at random for this, with all of their copies.

    Raises InputError if nothing is left to train on.
    """
    different = sorted({tuple(ids) for ids in encoded_lines})

    # Round first: as a float, 0.07 * 100 is a little more than 7
    count = math.ceil(round(fraction * len(different), 9))
    if count == len(different):
        raise InputError(f"no line is left to train on: there are {count}"
                         f" different lines, and {count} are held out")

    drawn = set(random.Random(seed).sample(different, count))
    training_lines = [ids for ids in encoded_lines if tuple(ids) not in drawn]
    held_out_lines = [ids for ids in encoded_lines if tuple(ids) in drawn]
    return training_lines, held_out_lines


def choose_context(encoded_lines, at_most):
    """How many tokens the model can look at: the longest line, or at_most.

    The delimiter before a line counts as well. A head computes T * T
    weights, so a long context is costly.
    """
    return min(at_most, 1 + max(len(ids) for ids in encoded_lines))


def mark_cut(text, prompt, vocab, max_new_tokens):
    """The text, with "…" if no delimiter came within max_new_tokens."""
    new_tokens = len(vocab.encode(text)) - len(vocab.encode(prompt))
    return text + "…" if new_tokens == max_new_tokens else text


def print_task(vocab, encoded_lines, training, model):
    """Print the sizes and two losses to compare with: floor, guessing."""
    V = len(vocab.tokens)
    T = model.context_length
    data = f"{count_predictions(training):,} tokens to predict, vocabulary of {V:,}"
    cut = sum(1 + len(ids) > T for ids in encoded_lines)
    if cut > 0:
        data += f"; {cut:,} of {len(encoded_lines):,} lines are cut at {T} tokens"
    floor = entropy_floor(training)
    guessing = math.log(V)  # each token has a probability of 1 / V
    parameters = sum(p.numel() for p in model.parameters())
    device = next(model.parameters()).device

    print(f"data      {data}")
    print(f"floor     {floor:.4f} nats/token; guessing costs {guessing:.4f}")
    print(f"model     {parameters:,} parameters on {device.type}", flush=True)


def print_loss(name, vocab, sequences, model):
    """Evaluate; print the loss, the perplexity, and warnings.

    The perplexity is e to the power of the loss. At a perplexity of 3, the
    model hesitates as if between three equally likely tokens.
    """
    loss = evaluate(model, sequences)
    perplexity = torch.tensor(loss).exp()  # at most inf: math.exp can overflow
    print(f"{name}  loss {loss:.4f}, perplexity {perplexity:#.3g}")
    if not loss > entropy_floor(sequences) - 0.0001:  # true for nan, too
        print("bug?      not above the floor: check mask, targets, softmax axis")
    if loss > math.log(len(vocab.tokens)):
        print("note      worse than guessing")


def run(lines, options):
    """Learn the lines, complete the prompt, draw the attention.

    lines: a list, or one text. Returns the model, its vocab, the tokens of
    the text, and their attention weights. Raises InputError if the lines or
    the options can't be used.
    """
    global last_run

    # Text becomes tokens (held-out lines give words to the vocab, too)
    if isinstance(lines, str):
        lines = lines.split("\n")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError("the data has no words")
    vocab = Vocab(lines, options.chars)
    encoded_lines = [vocab.encode(line) for line in lines]

    # Tokens become sequences, to train on and to test on
    training_lines, held_out_lines = hold_out(
        encoded_lines, options.holdout, options.seed)
    context_length = choose_context(encoded_lines, options.context)
    training = make_sequences(training_lines, context_length)
    held_out = make_sequences(held_out_lines, context_length)

    # Make a model
    torch.manual_seed(options.seed)
    model = MiniGPT(len(vocab.tokens), context_length, options.embed_dim,
                    options.heads, options.layers, options.dropout)
    model.to(options.device)

    # Try the options on the untrained model: errors come now, not later
    prompt = options.prompt
    if prompt is None:
        prompt = "" if options.data else lines[0].split()[0]
    length = options.max_new_tokens or context_length
    sampling = options.temperature, options.top_k, options.top_p
    generate(prompt, model, vocab, 1, *sampling)

    # Train, and see at each report what the model makes of the prompt
    def watch():
        few = min(12, length)
        text = mark_cut(generate(prompt, model, vocab, few), prompt, vocab, few)
        if held_out:
            text = f"held-out {evaluate(model, held_out):.4f}  {text}"
        return text

    print_task(vocab, encoded_lines, training, model)
    torch.manual_seed(options.seed)  # again, since the trial may have drawn
    train(model, training, options.epochs, options.batch_size, options.lr, watch)
    last_run = model, vocab

    # Evaluate
    print_loss("training", vocab, training, model)
    if held_out:
        print_loss("held-out", vocab, held_out, model)

    # Generate
    pairs = next_tokens(prompt, model, vocab)
    print("next     ", ", ".join(f"{label(token)} {p:.2f}" for token, p in pairs))
    texts = [generate(prompt, model, vocab, length, *sampling)
             for _ in range(options.samples)]
    for text in texts:
        print("text     ", mark_cut(text, prompt, vocab, length))

    # Draw the attention of the first text
    ids = [DELIMITER_ID, *vocab.encode(texts[0])][-context_length:]
    tokens = [vocab.tokens[i] for i in ids]
    with torch.no_grad():
        _, attention_weights = model(as_input(ids, model))
    plot_attention(attention_weights, tokens=tokens)
    return model, vocab, tokens, attention_weights


# ------------------------------------------------ the rest is not about GPTs
def between(kind, least, most=2**31 - 1):
    """A type for argparse: a number of this kind, from least to most."""
    def number(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # which is not between any two numbers
        if not least <= value <= most:
            word = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(
                f"{text!r} is no {word} from {least} to {most}")
        return value
    return number


def read_options(argv):
    """A list of arguments, or one text of them -> options.

    Raises ArgumentError or ValueError if one of them can't be used.
    """
    if isinstance(argv, str):
        try:
            words = shlex.shlex(argv, posix=True)
            words.whitespace_split = True
            words.commenters = ""
            words.escape = ""  # a backslash is only a backslash
            argv = list(words)
        except ValueError as error:
            raise InputError(f"{error} in {argv}")

    parser = argparse.ArgumentParser(
        "mini_gpt.py", usage=argparse.SUPPRESS, allow_abbrev=False,
        exit_on_error=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    count = between(int, 1)
    unit = between(float, 0, 1)

    add = parser.add_argument_group("data").add_argument
    add("--data", type=Path, metavar="FILE", help="a UTF-8 file, one text a line")
    add("--chars", action="store_true", help="make tokens of characters, not words")
    add("--context", type=count, default=128, help="longest piece of a line, in tokens")
    add("--holdout", type=unit, default=0, help="part of different lines to test on")

    add = parser.add_argument_group("model").add_argument
    add("--embed-dim", type=count, default=EMBED_DIM, help="channels of a token")
    add("--heads", type=count, default=NUM_HEADS, help="attention heads in a layer")
    add("--layers", type=count, default=NUM_LAYERS, help="GPT blocks")
    add("--dropout", type=unit, default=DROPOUT, help="fraction set to 0 in training")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, default=EPOCHS, help="how often each line is seen")
    add("--batch-size", type=count, default=BATCH_SIZE, help="sequences in a step")
    add("--lr", type=unit, default=LEARNING_RATE, help="learning rate of Adam")
    add("--seed", type=between(int, 0), default=SEED, help="start of random numbers")
    add("--device", choices=["cpu", "cuda", "mps"], default="cpu", help="to compute on")

    add = parser.add_argument_group("generation").add_argument
    add("--prompt", help="if missing, the first word, or nothing with --data")
    add("--max-new-tokens", type=count, help="if missing, as many as the context has")
    add("--temperature", type=between(float, 0), default=0.0,
        help="0: take the likeliest token; above 0: draw one")
    add("--top-k", type=count, help="draw from the k likeliest tokens")
    add("--top-p", type=unit, default=1.0, help="draw from the fewest that reach p")
    add("--samples", type=count, default=1, help="texts to generate")
    add("--plot", type=Path, metavar="FILE", default="attention.png", help="picture")
    options, unknown = parser.parse_known_args(argv)

    if unknown:
        raise InputError(f"{unknown[0]!r} is no option (--help lists them)")
    if not torch.get_device_module(options.device).is_available():
        raise InputError(f"--device {options.device} is not available here")
    if options.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"--plot {options.plot} is no name with .png, .pdf or .svg")
    if os.path.isdir(options.plot) or not os.path.isdir(options.plot.parent):
        raise InputError(f"--plot {options.plot} is no file in a folder that exists")
    return options


def read_text(path):
    """The text of a file. Raises InputError if it can't be read."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"--data {path}: {error}")


def save_picture(path):
    """Write the current figure. Raises InputError if that fails."""
    try:
        plt.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: {error}")
    print(f"picture   {path}")


def main(argv=()):
    """Do what the options say, a list or a text such as "--layers 4".

    Returns the model, its vocab, the tokens of the text, and their
    attention weights. What can't be used is reported in one line, and the
    program ends with status 2.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # "?" for what it can't show

    try:
        options = read_options(argv)
        lines = read_text(options.data) if options.data else SENTENCES
        result = run(lines, options)
        save_picture(options.plot)
        return result
    except (argparse.ArgumentError, InputError) as error:
        message = f"mini_gpt.py: error: {error}"
        status = 2
    except KeyboardInterrupt:
        message = "interrupted"
        status = 130

    # Colab can't show an exit inside of an except
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    # In a notebook, sys.argv has the options of the notebook, not ours
    file = globals().get("__file__") or ""
    is_script = Path(file).name == Path(sys.argv[0]).name
    argv = sys.argv[1:] if is_script else []
    model, vocab, tokens, attention_weights = main(argv)
