"""Mini GPT: a GPT in one file, to be read from top to bottom.

    python mini_gpt.py         learns six sentences in a second or so,
                               completes "deep" into one of them, and
                               draws which words attend to which words
    python mini_gpt.py --help  your own text, sampling, held-out lines

In a notebook, run(lines, layers=3) learns lines of your own, and
plot_attention draws them.

A Transformer is a neural network in which the tokens of a text (here
words) look at each other. In a decoder-only Transformer, such as a GPT, no
token looks ahead: each one looks at itself and at those before it. So it
can predict the next token. To write, it predicts one, appends it, and
predicts again.
GPT: generative (it writes), pre-trained (on plain texts, before it is
trained for a task), Transformer.

If you are in a hurry, read three classes: MaskedSelfAttention, GPTBlock
and MiniGPT. They are the model. Everything else feeds it, teaches it, or
lets it speak.

The file follows a text on its way through the model, where it takes these
shapes:

    ids      (B, T)     each token's number in the vocabulary
    vectors  (B, T, C)  C numbers that stand for a token and its position
    blocks   (B, T, C)  the vectors, after each block has added its part
    logits   (B, T, V)  after each token, a number for each candidate
    loss     ()         one number: how surprising the true next tokens were

    B  batch: sequences side by side
    T  time: tokens in a sequence
    C  channels: numbers that stand for a token (embed_dim)
    V  vocabulary: how many different tokens there are
    H  heads: questions that a token asks at once
"""

import argparse
import math
import random
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
NUM_LAYERS = 2  # how many blocks are there? (the field calls them layers)
DROPOUT = 0.1  # what fraction of numbers is set to 0 while training?
LEARNING_RATE = 0.001  # about how far can a step move a parameter?
EPOCHS = 300  # how many times is each sentence seen?
BATCH_SIZE = 32  # how many sequences are in a step? (all six fit into one)

# "powerful" and "fun" follow "deep learning is" once each: chance decides.
# Other seeds may end in "fun". Other processors may show other digits.
SEED = 184


# ------------------------------------------------ text becomes tokens
DELIMITER = "<|endoftext|>"  # between texts: it ends one and starts the next
DELIMITER_ID = 0


def split_lines(text):
    """One text or a list of lines -> list of lines, without blank ones."""
    lines = text.split("\n") if isinstance(text, str) else text
    return [line for line in lines if line.strip()]


def tokenize(text, chars=False):
    """Text -> list of tokens: words, or with chars=True characters.

    Words are split at blanks. Large GPTs split words further, into some
    50,000 pieces (byte pair encoding). Pieces can spell any new word, and
    make shorter sequences than characters do.
    """
    return list(text) if chars else text.split()


class InputError(ValueError):
    """A mistake of the user, and not of the code: main tells it in one line."""


class Vocab:
    """The different tokens of the lines, numbered from 1.

    Number 0 is the delimiter.
    """

    def __init__(self, lines, chars=False):
        self.chars = chars

        # Collect each token once
        found = {token for line in lines for token in tokenize(line, chars)}

        # Number the tokens: from token to id, and from id to token
        self.ids = {token: i for i, token in enumerate(sorted(found), start=1)}
        self.tokens = [DELIMITER, *self.ids]  # the delimiter is in no text

    def encode(self, text):
        """Text -> list of ids, without delimiters.

        Raises InputError for a token that is not in the vocabulary.
        """
        tokens = tokenize(text, self.chars)
        for token in tokens:
            if token not in self.ids:
                raise InputError(f"{token!r} does not occur in the data (case counts;"
                                 " tokens are words between blanks, or chars)")
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


def hold_out(encoded_lines, fraction, seed):
    """Lines of ids -> lines to train on, lines to test on.

    A model can learn its lines by heart. Lines that it never saw show
    whether it learned more than that. So a fraction of the different lines
    (rounded up) is drawn at random, and held out with all copies.

    Raises InputError if nothing is left to train on.
    """
    different = sorted({tuple(ids) for ids in encoded_lines})
    count = math.ceil(fraction * len(different))
    if count == len(different):
        raise InputError(f"of {count} different lines, {count} are held out: none left")

    drawn = set(random.Random(seed).sample(different, count))
    training_lines = [ids for ids in encoded_lines if tuple(ids) not in drawn]
    held_out_lines = [ids for ids in encoded_lines if tuple(ids) in drawn]
    return training_lines, held_out_lines


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
    model would learn to read instead of to predict. With it, each row is an
    honest task. The six sentences make 30 of them: 24 words and 6 ends.

    Tokens look at each other in each head of each block, and each time the
    mask is needed: a single leak betrays the future. With the mask, "deep"
    has the same vectors in "deep learning" and in "deep models".
    """
    # Forbid what is above the diagonal (triu keeps the upper triangle)
    ones = torch.ones(seq_len, seq_len, device=device)
    return torch.triu(ones, diagonal=1).bool()


class MaskedSelfAttention(nn.Module):
    """Multi-head causal self-attention: tokens collect what they look for.

    Think of a library. A token comes with a question, its query. Each token
    before it, and the token itself, is a shelf. The shelf has a label, its
    key, and something to give, its value. The better the label fits the
    question, the larger the share that is taken from the shelf. The token
    goes home with a weighted mean of the values:

        attention(q, k, v) = softmax(mask(q @ k^T / sqrt(d))) @ v

    A score says how well a key fits a query: q @ k^T (k transposed)
    multiplies the two channel by channel and adds up, and d is how many
    channels they have.
    The softmax turns each row of scores into weights. It takes e to the
    power of each score, and divides by the sum of these in the row.

    The weights are computed anew for each text. What is learned are two
    linear layers: one makes q, k and v, one mixes what the heads have found.

    Self: queries, keys and values are all made from the same text.
    Causal: a token looks at itself and at the tokens before it.
    Multi-head: a token asks H questions at once. Each head reads all C
    channels of a token, and makes its own d = C / H channels of query, key
    and value. So H heads need no more parameters than one.

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
        """x (B, T, C) -> out (B, T, C), weights (B, H, T, T) before dropout.

        Why view and transpose? view cuts each vector into H pieces, one for
        each head. transpose brings H before T, since @ multiplies the last
        two dimensions, for each of B and H: (T, d) @ (d, T) is (T, T), a
        score for each pair of tokens. (d is head_size.) view(B, H, T, d)
        would give the same shape at once, but mix up the tokens.

        Why the root? q @ k^T is a sum of d products. Plus and minus cancel
        in part, so it is about as large as the root of d, just as 100
        random steps to the left or right typically end about 10 from the
        start. Large scores make the softmax pick one token before anything
        is learned. For a query and ten keys of 64 random numbers (mean 0,
        deviation 1), the largest of the ten weights is 0.86 on average, and
        0.32 with the root. In training, too, each step would move them too
        far: the changes of d products add up. Small heads need it less.

        Why mask before the softmax? e to the power of -inf is 0, and the
        weights that are left still sum to 1. If weights were set to 0 after
        the softmax, the future would be in the sum that divided the row.
        """
        B, T, C = x.shape
        H = self.num_heads
        head_size = C // H

        # Make queries, keys and values: 3 C channels, cut into three
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, T, C)

        # Split the channels into heads
        q = q.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)
        k = k.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)
        v = v.view(B, T, H, head_size).transpose(1, 2)  # (B, H, T, head_size)

        # Score how well each key fits each query
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)  # (B, H, T, T)

        # Hide the future: the same mask for each of B and H
        scores = scores.masked_fill(causal_mask(T, x.device), float("-inf"))

        # Turn each row of scores into weights that sum to 1
        weights = F.softmax(scores, dim=-1)  # (B, H, T, T)

        # Drop some weights, and collect a weighted mean of the values
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
    alike. In training, the addition also hands the gradient on to the first
    block. If the additions around attention are taken out, a model of 12
    blocks learns no more than how often each word comes.

    LayerNorm: shifts and scales the vector of each token to mean 0 and
    standard deviation 1, so that what comes next reads numbers of a steady
    size. (Learned numbers then scale and shift each channel.) It stands
    before attention and before the feed-forward network, so that x itself
    passes through additions only. In the paper of 2017 it stood after the
    addition, and the training started with very small steps.

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
        # Look: add what attention collects, after dropout
        attended, weights = self.attention(self.norm1(x))
        x = x + self.dropout(attended)

        # Think: add what the feed-forward network makes of it, after dropout
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x, weights


# ------------------------------------------------ tokens become predictions
class MiniGPT(nn.Module):
    """Embeddings, a stack of blocks, and logits for the next token.

    An embedding is a table (V, C): each id picks a row. (This is the same
    as a one-hot vector, with a 1 at the id, times the table.) The rows
    start at random, and are learned like all other parameters. Nothing else
    is known of a word: not its letters, and not its meaning.

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

        # Refuse what doesn't fit
        if T > self.context_length:
            raise ValueError(f"{T} tokens exceed the context of {self.context_length}")

        # Add what each token is and where it stands: (T, C) to each of B
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
    # Shift by one
    inputs = [torch.tensor(ids[:-1]) for ids in sequences]
    targets = [torch.tensor(ids[1:]) for ids in sequences]

    # Fill up short rows
    return (pad_sequence(inputs, batch_first=True, padding_value=DELIMITER_ID),
            pad_sequence(targets, batch_first=True, padding_value=-100))


def next_token_loss(model, inputs, targets):
    """How surprising the true next tokens are, in nats per token.

    A next token to which the model gives the probability p costs -ln(p)
    nats: 0 if the model was sure of it, 0.69 for 1/2, 2.3 for 1/10. The
    mean of these costs, which is returned, is called cross-entropy. (A nat
    is 1.44 bits: 0.69 nats are one bit, a coin flip.)

    All positions are predicted at once. Each is given the true past, and
    not what the model itself would have written (teacher forcing).
    """
    # Predict what follows each input, where the model is: on CPU or GPU
    device = next(model.parameters()).device
    logits, _ = model(inputs.to(device))  # (B, T, V)

    # Compare with the targets, in one long list (cross_entropy has the softmax)
    logits = logits.flatten(0, 1)  # (B * T, V)
    targets = targets.flatten().to(device)  # (B * T,)
    return F.cross_entropy(logits, targets)


def count_predictions(sequences):
    """How many tokens are predicted: all but the first of each sequence."""
    return sum(len(ids) - 1 for ids in sequences)


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
    them comes. The best it can do is to give each the probability 1/6, which
    is the product of those of its tokens. Half of the sentences begin with
    "deep", two of these three go on with "learning", and so on:

        deep     learning     is     powerful     end
        1/2   *    2/3    *   1   *    1/2    *    1    =   1/6
        0.69  +    0.41   +   0   +    0.69   +    0    =   ln 6 = 1.79 nats

    So each sentence costs ln 6. That makes 6 ln 6 in all, and 0.3584 for
    each of the 30 tokens.

    The first id of a sequence is given, and not predicted. So a sequence is
    compared only with those of the same first id: whole lines begin with 0,
    later pieces of long lines don't.

    Lines that were held out have a floor, too: that of a model which knows
    these very lines by heart. One that never saw them can't come near it.
    """
    # Count the copies of each sequence, and those that begin alike
    copies = Counter(tuple(ids) for ids in sequences)
    begin_alike = Counter(ids[0] for ids in sequences)

    # Add up what all copies cost, and share it among the predicted tokens
    nats = 0.0
    for ids, count in copies.items():
        nats += count * -math.log(count / begin_alike[ids[0]])
    return nats / count_predictions(sequences)


def print_loss(name, model, vocab, sequences, batch_size=BATCH_SIZE):
    """Evaluate; print the loss, the perplexity, and warnings.

    The perplexity is e to the power of the loss. At a perplexity of 3, the
    model hesitates as if between three equally likely tokens.
    """
    loss = evaluate(model, sequences, batch_size)
    perplexity = torch.tensor(loss).exp()  # at most inf: math.exp can overflow
    print(f"{name}  loss {loss:.4f}, perplexity {perplexity:#.3g}")

    if math.isnan(loss):
        print("bug?      no number: steps too large, or a token that sees nothing?")
    if loss < entropy_floor(sequences) - 0.0001:
        print("bug?      below the floor: check mask, targets, softmax axis")
    if loss > math.log(len(vocab.tokens)):
        print("note      worse than guessing")


# ------------------------------------------------ the loss becomes learning
def train(model, sequences, epochs=EPOCHS, batch_size=BATCH_SIZE,
          lr=LEARNING_RATE, watch=lambda: ""):
    """Fit the model to the sequences; return the loss of each step.

    Losses are in nats per token. The first step, each tenth of all steps
    and the last one print a line: step, mean loss of the latest tenth, time,
    and what the function watch says (by default, nothing).

    Adam is gradient descent with a memory. It moves each parameter against
    the mean of its latest gradients, divided by their usual size, times lr.
    So parameters with small gradients move as far as those with large ones.
    (Kingma and Ba 2014. Fused: PyTorch moves them all in one go.)

    shuffle: in each epoch the sequences come in a new order, so that it is
    never the same ones that share a step. The model is left in eval mode.
    """
    # Prepare the batches, the optimizer, and the reports
    batches = DataLoader(sequences, batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    steps = epochs * len(batches)
    tenth = max(1, steps // 10)
    started = time.perf_counter()
    losses = []

    # Go through all batches in each epoch
    for epoch in range(epochs):
        for inputs, targets in batches:
            # Predict, and measure how wrong the predictions are
            model.train()  # dropout on (watch turns it off)
            loss = next_token_loss(model, inputs, targets)
            losses.append(loss.item())

            # Compute the gradient: how each parameter changes the loss
            optimizer.zero_grad()  # or earlier steps' gradients are added
            loss.backward()

            # Move each parameter a little, so that the loss falls
            optimizer.step()

            # Tell how it goes
            step = len(losses)
            if step in (1, steps) or step % tenth == 0:
                latest = losses[-tenth:]
                seconds = time.perf_counter() - started
                print(f"step {step:8}/{steps}  loss {sum(latest) / len(latest):.4f}"
                      f"  {seconds:5.1f} s  {watch()}", flush=True)

    model.eval()  # dropout off
    return losses


# ------------------------------------------------ learning becomes text
@torch.no_grad()
def predict(ids, model):
    """List of ids -> logits (1, T, V) for what follows, attention weights.

    The model is shown the latest ids that fit into its context. This is all
    that a GPT can do. To write, it does this again and again.
    """
    latest = ids[-model.context_length:]
    device = next(model.parameters()).device
    model.eval()  # dropout off
    return model(torch.tensor([latest], device=device))  # a batch of one


def next_tokens(prompt, model, vocab, count=3):
    """What may follow the prompt: pairs of token and probability."""
    logits, _ = predict([DELIMITER_ID, *vocab.encode(prompt)], model)

    # Only what follows the last token is unknown: take the last logits
    probabilities = F.softmax(logits[0, -1], dim=-1)  # (V,)
    likeliest = probabilities.argsort(descending=True)[:count]
    return [(vocab.tokens[i], probabilities[i].item()) for i in likeliest]


def sampling_probabilities(logits, temperature=1.0, top_k=None, top_p=1.0):
    """Logits (V,) -> the probabilities (V,) from which a token is drawn.

    Logits are divided by the temperature. Below 1, their differences grow,
    and the likeliest tokens become likelier. Above 1, probabilities even
    out. Then top_k keeps only the k likeliest tokens. Of these, top_p keeps
    the fewest that reach p together, the likeliest first (nucleus sampling,
    Holtzman et al. 2019).

    Raises InputError if one of these is out of range.
    """
    # Refuse what is out of range
    if not (temperature > 0 and 0 < top_p <= 1 and (top_k is None or top_k >= 1)):
        raise InputError("drawing needs a temperature above 0, a top_p above 0 and up"
                         " to 1, and a top_k of at least 1")

    # Turn logits into probabilities, and put the likeliest first
    probabilities = F.softmax(logits / temperature, dim=-1)  # (V,)
    ordered, ids = probabilities.sort(descending=True)  # (V,), (V,)

    # Drop all after the first top_k
    if top_k is not None:
        ordered[top_k:] = 0.0

    # Drop a token if those before it reach top_p of what is left
    if top_p < 1:
        sum_before = ordered.cumsum(dim=-1) - ordered
        ordered[sum_before >= top_p * ordered.sum()] = 0.0

    # Put each token back in its place, and let them sum to 1 again
    probabilities[ids] = ordered / ordered.sum()
    return probabilities


last_run = None, None  # the model of the last run, and its vocab


def generate(prompt, model=None, vocab=None, max_new_tokens=None,
             temperature=0.0, top_k=None, top_p=1.0):
    """Continue the prompt, token by token; return all of it as text.

    The text ends where the model chooses the delimiter, or else after
    max_new_tokens, by default as many as the context holds. Without a model
    and its vocab, those of the last run are used.

    Temperature 0 takes the likeliest token each time (greedy). Such a text
    may go in circles: once a whole context comes again, so does all that
    followed it. Above 0, a token is drawn, with the options of
    sampling_probabilities.

    Each step computes the whole text again. Since no token looks ahead, the
    keys and values of earlier tokens stay the same, and could be kept (a KV
    cache). But once the text outgrows the context, it loses its first token
    at each step. The others must then be computed anew, at other positions,
    as if the lost one had never been there.

    Raises InputError for unknown tokens, and for top_k or top_p where
    nothing is drawn.
    """
    # Find a model to write, and refuse top_k and top_p at temperature 0
    if model is None and vocab is None:
        model, vocab = last_run
    if model is None or vocab is None:
        raise InputError('run first, or pass both: generate("deep", model, vocab)')
    if temperature == 0 and (top_k is not None or top_p != 1):
        raise InputError("top_k and top_p need a temperature above 0")
    if max_new_tokens is None:
        max_new_tokens = model.context_length

    # Begin with the prompt, and go on token by token
    ids = [DELIMITER_ID, *vocab.encode(prompt)]
    for _ in range(max_new_tokens):
        # Predict what follows each token
        logits, _ = predict(ids, model)  # (1, T, V)

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


# The GPT is complete: you may stop here. What follows draws its attention,
# puts the parts together, and reads options.

# ------------------------------------------------ learning becomes a picture
def label(token):
    """A token as a label: at most 16 characters, blanks made visible."""
    text = str(token).translate(str.maketrans(" \t\n", "␣⇥⏎"))
    return text if len(text) <= 16 else text[:15] + "…"


def attention_of(text, model, vocab):
    """The tokens of a text that fit into the context, and their weights."""
    ids = [DELIMITER_ID, *vocab.encode(text)]
    _, attention_weights = predict(ids, model)
    tokens = [vocab.tokens[i] for i in ids[-model.context_length:]]
    return tokens, attention_weights


def plot_attention(attention_weights, layer=0, tokens=None):
    """Draw who looks at whom: a heatmap for each head of a block.

    attention_weights: a (B, H, T, T) per block. The first of B is drawn.
    layer: which block, from 0. tokens: T words for the axes, else numbers.
    Row: the token that looks. Column: the token that it looks at.

    Raises InputError if there is no block, or if the tokens are not T.
    """
    if not attention_weights:
        raise InputError("a model without blocks has no attention to draw")
    weights = attention_weights[layer][0].detach().float().cpu()  # (H, T, T)
    H, T, _ = weights.shape
    tokens = list(range(T)) if tokens is None else list(tokens)
    if len(tokens) != T:
        raise InputError(f"{len(tokens)} tokens can't label {T} rows of weights")

    # Leave the future blank (but show it where a faulty mask does)
    blank = causal_mask(T) & (weights == 0)  # (H, T, T)

    # Label the tokens, but not more than 40 of them ($ starts no formula)
    every = math.ceil(T / 40)
    labels = [label(token).replace("$", r"\$") for token in tokens]
    labels = [text if t % every == 0 else "" for t, text in enumerate(labels)]

    # Make room for a panel per head, four in a row
    columns = min(H, 4)
    rows = math.ceil(H / columns)
    side = min(max(2.4, 0.5 * T), 6.0)  # of a panel, in inches
    fig = plt.figure(figsize=(columns * side + 1.5, rows * (side + 1)))

    # Draw the weights of each head
    for head in range(H):
        with sns.axes_style("white"):
            ax = fig.add_subplot(rows, columns, head + 1)
        sns.heatmap(weights[head], mask=blank[head].numpy(), vmin=0, vmax=1,
                    cmap="Blues", annot=T <= 12, fmt=".2f", square=True, cbar=False,
                    xticklabels=labels, yticklabels=labels, ax=ax)
        ax.set_title(f"block {layer}, head {head}")
        ax.tick_params(length=0, labelleft=head % columns == 0)
        plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
        plt.setp(ax.get_yticklabels(), rotation=0)

    # Explain the colours and the axes
    fig.set_layout_engine("constrained")
    fig.colorbar(ax.collections[0], ax=fig.axes, label="attention weight", shrink=0.7)
    fig.supylabel("this token ...")
    fig.supxlabel("... attends to this token")


# ------------------------------------------------ the whole story
def check_range(least, most, **numbers):
    """Raise InputError for a number that is not from least to most."""
    for name, number in numbers.items():
        if not least <= number <= most:  # true for nan, too
            raise InputError(f"{name} must be from {least} to {most}, not {number}")


def print_task(model, vocab, lines, sequences):
    """Print the sizes, and two losses to compare with: floor and guessing."""
    predictions = count_predictions(sequences)
    parameters = sum(p.numel() for p in model.parameters())
    V = len(vocab.tokens)
    print(f"data      {predictions:,} tokens to predict, vocabulary of {V:,}")
    if len(sequences) > len(lines):
        print(f"cut       {len(lines):,} lines into {len(sequences):,} pieces,"
              f" since the context holds {model.context_length} tokens")
    floor = entropy_floor(sequences)
    print(f"floor     {floor:.4f} nats/token; guessing costs {math.log(V):.4f}")
    print(f"model     {parameters:,} parameters", flush=True)


def run(lines=None, *, chars=False, context=128, holdout=0.0, embed_dim=EMBED_DIM,
        heads=NUM_HEADS, layers=NUM_LAYERS, dropout=DROPOUT, epochs=EPOCHS,
        batch_size=BATCH_SIZE, lr=LEARNING_RATE, seed=SEED, device="cpu", prompt=None,
        max_new_tokens=None, temperature=0.0, top_k=None, top_p=1.0, samples=1):
    """Learn the lines, evaluate, complete the prompt; print how it goes.

    lines: a list, or one text whose lines are taken; by default SENTENCES.
    (Other constants are read only when the whole file is run.)
    context: the longest piece of a line. holdout: the fraction of different
    lines that only test. prompt: by default the first word of SENTENCES, or
    nothing for other lines. samples: how many texts to write. The others
    are those of MiniGPT (layers: blocks, or 0 for none), train, generate.

    Returns the model, its vocab, the tokens of the first text, and their
    attention weights. Ctrl-C ends the training early. Raises InputError for
    what can't be used.
    """
    global last_run

    # Refuse numbers that make no sense
    check_range(1, math.inf, context=context, embed_dim=embed_dim, heads=heads,
                epochs=epochs, batch_size=batch_size, samples=samples)
    check_range(0, 1, holdout=holdout, dropout=dropout, lr=lr)
    check_range(0, math.inf, layers=layers, temperature=temperature)

    # Text becomes tokens (held-out lines give words to the vocab, too)
    text_lines = split_lines(SENTENCES if lines is None else lines)
    vocab = Vocab(text_lines, chars)
    encoded_lines = [vocab.encode(line) for line in text_lines]

    # Tokens become sequences, to train on and to test on
    training_lines, held_out_lines = hold_out(encoded_lines, holdout, seed)
    context_length = min(context, 1 + max(len(ids) for ids in encoded_lines))
    training = make_sequences(training_lines, context_length)
    held_out = make_sequences(held_out_lines, context_length)

    # Make a model
    torch.manual_seed(seed)
    model = MiniGPT(len(vocab.tokens), context_length,
                    embed_dim, heads, layers, dropout).to(device)

    # Let it try to write: what can't be used is told before the training
    if prompt is None:
        prompt = text_lines[0].split()[0] if lines is None else ""
    length = context_length if max_new_tokens is None else max_new_tokens
    check_range(1, math.inf, max_new_tokens=length)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    generate(prompt, model, vocab, 1, **sampling)

    # Train, and see at each report what the model makes of the prompt
    def watch():
        text = generate(prompt, model, vocab, min(12, length))
        if held_out:
            text = f"held-out {evaluate(model, held_out, batch_size):.4f}  {text}"
        return text

    print_task(model, vocab, training_lines, training)
    torch.manual_seed(seed)  # again, since the first try may have drawn
    try:
        train(model, training, epochs, batch_size, lr, watch)
    except KeyboardInterrupt:
        print("stopped   what was learned is kept")
    last_run = model, vocab

    # Evaluate
    print_loss("training", model, vocab, training, batch_size)
    if held_out:
        print_loss("held-out", model, vocab, held_out, batch_size)

    # Generate
    pairs = next_tokens(prompt, model, vocab)
    print("next     ", ", ".join(f"{label(token)} {p:.2f}" for token, p in pairs))
    texts = [generate(prompt, model, vocab, length, **sampling) for _ in range(samples)]
    for text in texts:
        print("text     ", text)
    return model, vocab, *attention_of(texts[0], model, vocab)


# ------------------------------------------------ the rest is not about GPTs
def make_parser():
    """What the command line understands: the arguments of run, and --data.

    An option that is missing is not passed on, so run takes its default.
    """
    parser = argparse.ArgumentParser(
        "mini_gpt.py", usage="mini_gpt.py [--OPTION VALUE ...]  (see --help)",
        description="Learn lines of text, complete a prompt, draw the attention."
                    " In brackets: what is taken by default.",
        argument_default=argparse.SUPPRESS)

    add = parser.add_argument
    add("--data", metavar="FILE", help="UTF-8, one text a line (six sentences)")
    add("--chars", action="store_true", help="tokens are characters (words)")
    add("--context", type=int, help="longest piece of a line, in tokens (128)")
    add("--holdout", type=float, help="fraction of lines that only test (0)")
    add("--embed-dim", type=int, help=f"channels of a token ({EMBED_DIM})")
    add("--heads", type=int, help=f"attention heads in a block ({NUM_HEADS})")
    add("--layers", type=int, help=f"blocks ({NUM_LAYERS})")
    add("--dropout", type=float, help=f"fraction set to 0 ({DROPOUT})")
    add("--epochs", type=int, help=f"how often each line is seen ({EPOCHS})")
    add("--batch-size", type=int, help=f"sequences in a step ({BATCH_SIZE})")
    add("--lr", type=float, help=f"learning rate ({LEARNING_RATE})")
    add("--seed", type=int, help=f"start of the random numbers ({SEED})")
    add("--device", help="where to compute: cpu, cuda or mps (cpu)")
    add("--prompt", help="text to complete (first word; with --data, nothing)")
    add("--max-new-tokens", type=int, help="most to write (as the context holds)")
    add("--temperature", type=float, help="0: the likeliest; above 0: draw (0)")
    add("--top-k", type=int, help="draw from the k likeliest tokens (all)")
    add("--top-p", type=float, help="draw from the fewest that reach p (1)")
    add("--samples", type=int, help="texts to write (1)")
    return parser


def main(argv=()):
    """Run with a list of options, save a picture; return what run does.

    A mistake of the user is told in one line, with exit status 2. A bug in
    the code keeps its traceback.
    """
    parser = make_parser()
    options = vars(parser.parse_args(argv))
    path = options.pop("data", None)

    try:
        lines = None if path is None else Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        parser.error(f"--data {path}: {error}")
    mistake = None
    try:
        model, vocab, tokens, attention_weights = run(lines, **options)
    except InputError as error:
        mistake = str(error)
    if mistake:
        parser.error(mistake)  # not in the except, where Colab can't show it

    if attention_weights:
        plot_attention(attention_weights, tokens=tokens)
        plt.savefig("attention.png", dpi=150)
        print("picture   attention.png")
    else:
        print("picture   none: without blocks, no token looks at another")
    return model, vocab, tokens, attention_weights


if __name__ == "__main__":
    # In a notebook, sys.argv has the options of the notebook, not ours
    file = globals().get("__file__") or ""
    is_script = Path(file).name == Path(sys.argv[0]).name
    if is_script and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # "?" for what it can't show
    model, vocab, tokens, attention_weights = main(sys.argv[1:] if is_script else [])
