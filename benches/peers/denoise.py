"""Inference of DiffRec in PyTorch, beside `gpurec bench denoise`: the same users and shapes, the same arithmetic, random weights.

    python denoise.py --data amazon_beauty.txt --threads 2

The data is a line per user, `user item item ...`; the first 256 users are ranked for, all together. Linear layers and norms see real
rows only, attention sees histories padded to the longest, and of the last block only the slots are computed. Prints the median time
in milliseconds and users per second for each way to infer.
"""
import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

MAX_LEN = 50


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.attention_norm, self.inner_norm = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)

    def split(self, x):
        """[B, T, dim] -> [B, heads, T, dim / heads]"""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def finish(self, x, mixed):
        """What follows attention; `mixed` and `x` are [N, dim]."""
        x = self.attention_norm(x + self.out(mixed))
        return self.inner_norm(x + self.down(F.gelu(self.up(x))))


class Denoiser(nn.Module):
    def __init__(self, items, dim, heads, blocks, steps):
        super().__init__()
        self.items, self.positions = nn.Embedding(items, dim), nn.Embedding(MAX_LEN, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(blocks))
        self.output = nn.Linear(dim, items)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        self.dim, self.steps = dim, steps
        angle = torch.arange(steps + 1)[:, None] / 10_000 ** (torch.arange(0, dim, 2) / dim)
        self.register_buffer("sinusoids", torch.stack([angle.sin(), angle.cos()], -1).flatten(1))

    def padded(self, block, layers, x, real, shape):
        """What the layers make of the real rows `x`, each as [B, heads, T, dim / heads] with zeros elsewhere."""
        out = []
        for layer in layers:
            full = x.new_zeros(shape[0] * shape[1], self.dim)
            full[real] = layer(x)
            out.append(block.split(full.view(*shape, self.dim)))
        return out

    def rows(self, block, x, real, known):
        """A block among the rows; `known` is [B, T]."""
        q, k, v = self.padded(block, (block.query, block.key, block.value), x, real, known.shape)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=known[:, None, None, :])
        return block.finish(x, mixed.transpose(1, 2).reshape(-1, self.dim)[real])

    def bidirectional(self, batch, samples):
        """Slots are the last rows of their sequences, one sequence for each sample. Returns f(slots [B S, dim], n) -> [B S, dim]."""
        ids, lengths = batch
        count, width = len(lengths) * samples, ids.shape[1] + 1
        lengths = lengths.repeat_interleave(samples)
        columns = torch.arange(width)[None, :]
        known = columns <= lengths[:, None]
        real = known.flatten().nonzero().squeeze(1)
        position = (columns - lengths[:, None] + MAX_LEN - 1).flatten()[real]
        slots = torch.arange(count) * width + lengths
        place = torch.zeros(count * width, dtype=torch.long).index_copy_(0, real, torch.arange(len(real)))[slots]
        ids = F.pad(ids, (0, 1)).repeat_interleave(samples, 0).flatten()[real]

        def predict(noisy, n):
            x = self.items(ids)
            x = x.index_copy(0, place, noisy) + self.positions(position) + self.sinusoids[n]
            x = self.norm(x)
            for block in self.blocks[:-1]:
                x = self.rows(block, x, real, known)
            last = self.blocks[-1]
            k, v = self.padded(last, (last.key, last.value), x, real, known.shape)
            slot = x[place]
            q = last.split(last.query(slot)[:, None])
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=known[:, None, None, :])
            mixed = mixed.transpose(1, 2).reshape(count, self.dim)
            return last.finish(slot, mixed)

        return predict

    def prefix(self, batch, samples):
        """The history does not see the slots, so it is encoded once for all samples and steps."""
        ids, lengths = batch
        users, width = ids.shape
        columns = torch.arange(width)[None, :]
        known = columns < lengths[:, None]
        real = known.flatten().nonzero().squeeze(1)
        position = (columns - lengths[:, None] + MAX_LEN - 1).flatten()[real]
        x = self.norm(self.items(ids.flatten()[real]) + self.positions(position))
        history = []
        for i, block in enumerate(self.blocks):
            history.append(self.padded(block, (block.key, block.value), x, real, known.shape))
            if i + 1 < len(self.blocks):
                x = self.rows(block, x, real, known)

        def predict(noisy, n):
            x = self.norm(noisy + self.positions.weight[MAX_LEN - 1] + self.sinusoids[n])
            for block, (k, v) in zip(self.blocks, history):
                def heads(layer):
                    return block.split(layer(x).view(users, samples, self.dim))
                q, own_k, own_v = heads(block.query), heads(block.key), heads(block.value)
                scores = (q @ k.transpose(-1, -2)).masked_fill(~known[:, None, None, :], -1e30)
                scores = torch.cat([scores, (q * own_k).sum(-1, keepdim=True)], -1)
                p = (scores / math.sqrt(q.shape[-1])).softmax(-1)
                mixed = p[..., :-1] @ v + p[..., -1:] * own_v
                x = block.finish(x, mixed.transpose(1, 2).reshape(users * samples, self.dim))
            return x

        return predict

    def ranks(self, predict, users, samples, targets):
        """One jump from pure noise; the mean of the samples' probabilities."""
        h = predict(torch.randn(users * samples, self.dim), self.steps)
        return self.rank(h, users, samples, targets)

    def rank(self, h, users, samples, targets):
        p = self.output(h).softmax(-1).view(users, samples, -1).mean(1)
        return (p > p.gather(1, targets[:, None])).sum(1)

    def chain(self, predict, users, targets, posterior):
        """All steps back (Algorithm 2), one sample."""
        h = torch.randn(users, self.dim)
        for n in range(self.steps, 1, -1):
            predicted, history, spread = posterior[n]
            h = predicted * predict(h, n) + history * h + spread * torch.randn(users, self.dim)
        return self.rank(predict(h, 1), users, 1, targets)


def posterior(steps):
    """Weights of prediction, state and noise of a step back, for the schedule `sqrt`."""
    def f(t):
        return 1 - math.sqrt(t + 1e-4)
    betas = [0.0] + [min(1 - f(n / steps) / f((n - 1) / steps), 0.999) for n in range(1, steps + 1)]
    bars = [1.0]
    for beta in betas[1:]:
        bars.append(bars[-1] * (1 - beta))
    def at(n):
        return (math.sqrt(bars[n - 1]) * betas[n] / (1 - bars[n]),
                math.sqrt(1 - betas[n]) * (1 - bars[n - 1]) / (1 - bars[n]), math.sqrt(betas[n]))
    return [None, None] + [at(n) for n in range(2, steps + 1)]


def read(path, users):
    with open(path) as lines:
        items = [[int(item) - 1 for item in line.split()[1:]] for line in lines]
    catalogue = 1 + max(map(max, items))
    items = items[:users]
    histories = [own[:-1][-(MAX_LEN - 1):] for own in items]
    ids = torch.zeros(len(items), max(map(len, histories)), dtype=torch.long)
    for row, history in zip(ids, histories):
        row[:len(history)] = torch.tensor(history)
    lengths = torch.tensor([len(history) for history in histories])
    return (ids, lengths), torch.tensor([own[-1] for own in items]), catalogue


def median(call, seconds):
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    batch, targets, catalogue = read(args.data, args.users)
    users = len(targets)
    print(f"torch {torch.__version__}, {args.threads} threads, {users} users, {catalogue} items")
    with torch.inference_mode():
        for mask in ("prefix", "bidirectional"):
            model = Denoiser(catalogue, 256, 2, 2, 1000).eval()
            for samples in (1, 10, 20):
                def jump():
                    return model.ranks(getattr(model, mask)(batch, samples), users, samples, targets)
                report(f"{mask} samples={samples}", median(jump, args.seconds), users)
            model, weights = Denoiser(catalogue, 256, 2, 2, 100).eval(), posterior(100)
            def chain():
                return model.chain(getattr(model, mask)(batch, 1), users, targets, weights)
            report(f"{mask} chain steps=100", median(chain, args.seconds), users)


def report(name, seconds, users):
    print(f"{name:<30} {1e3 * seconds:9.1f} ms {users / seconds:9.0f} users/s", flush=True)


if __name__ == "__main__":
    main()
