"""A training step of SNQN over a GRU in plain PyTorch, beside `gpurec bench step --method snqn`: the same losses and updates on events
without meaning.

    python snqn_step.py --write events.csv                      # a log that holds every item
    python snqn_step.py --threads 2
    gpurec bench step --method snqn --dataset events.csv --device cpu

Each step draws a batch of 256 states of up to ten items, moves one of the two networks by Adam, and takes the other for its targets.
Prints the median time of a step and the peak resident set.
"""
import argparse
import random
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

LENGTH, NEGATIVES, DISCOUNT = 10, 10, 0.5


class Network(nn.Module):
    """Item table, GRU whose reset gate acts on the state, a head of scores and a head of values."""

    def __init__(self, items, dim):
        super().__init__()
        self.items = nn.Embedding(items + 1, dim, padding_idx=items)
        self.of_input = nn.Linear(dim, 3 * dim)
        self.gates, self.candidate = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.scores, self.values = nn.Linear(dim, items), nn.Linear(dim, items)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.01)

    def state(self, ids, lengths):
        inputs = self.of_input(self.items(ids))
        h = inputs.new_zeros(len(ids), self.candidate.in_features)
        for t in range(LENGTH):
            gates, candidate = inputs[:, t].split([2 * h.shape[1], h.shape[1]], dim=1)
            reset, update = torch.sigmoid(gates + self.gates(h)).chunk(2, dim=1)
            new = torch.tanh(candidate + self.candidate(reset * h))
            h = torch.where((t < lengths)[:, None], update * h + (1 - update) * new, h)
        return h

    def value(self, state, ids):
        """Values of some items of each state: ids [B, K]."""
        return (self.values.weight[ids] @ state[:, :, None]).squeeze(2) + self.values.bias[ids]


def draw(items, batch):
    length = torch.randint(1, LENGTH + 1, (batch,))
    ids = torch.randint(items, (batch, LENGTH + 1))
    states = []
    for first, many in ((0, length), (1, length)):
        window = ids[:, first:first + LENGTH].clone()
        window[torch.arange(LENGTH)[None, :] >= many[:, None]] = items
        states.append(window)
    action = ids[torch.arange(batch), length]
    reward = torch.where(torch.rand(batch) < 0.1, 1.0, 0.2)
    return states[0], states[1], length, action, reward, (torch.rand(batch) > 0.1).float(), torch.randint(items, (batch, NEGATIVES))


def step(main, target, optimizer, batch):
    state, following, length, action, reward, goes_on, negatives = batch
    with torch.no_grad():
        there, there_target = main.state(following, length), target.state(following, length)
        best = main.values(there).argmax(1, keepdim=True)
        wanted = reward + DISCOUNT * goes_on * target.value(there_target, best).squeeze(1)
        here_target = target.state(state, length)
    h = main.state(state, length)
    with torch.no_grad():
        best = main.values(h).argmax(1, keepdim=True)
        wanted_of_negatives = DISCOUNT * target.value(here_target, best)
    values = main.value(h, torch.cat([action[:, None], negatives], 1))
    learned = 0.5 * (wanted - values[:, 0]) ** 2 + 0.5 * ((wanted_of_negatives - values[:, 1:]) ** 2).sum(1)
    loss = learned.mean() + F.cross_entropy(main.scores(h), action)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def write(path, items):
    """Sessions of ten views, the last bought; every item once or more."""
    order = list(range(items)) * 2
    random.Random(1).shuffle(order)
    with open(path, "w") as out:
        out.write("session,item,time,event\n")
        for event, item in enumerate(order):
            kind = "addtocart" if event % 10 == 9 else "view"
            out.write(f"s{event // 10},i{item},{1_600_000_000 + event},{kind}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=70_852)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", metavar="FILE", help="write a log of events for gpurec, and measure nothing")
    args = parser.parse_args()
    if args.write:
        write(args.write, args.items)
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    networks = [Network(args.items, args.dim) for _ in range(2)]
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.005, fused=True) for network in networks]
    times = []
    for _ in range(args.steps + 3):
        began = time.perf_counter()
        which = random.getrandbits(1)
        loss = step(networks[which], networks[1 - which], optimizers[which], draw(args.items, args.batch))
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"torch {torch.__version__}, {args.threads} threads, {args.items} items: {1e3 * statistics.median(times[3:]):.1f} ms a step, "
          f"peak {peak:.0f} MiB, loss {loss:.3f}")


if __name__ == "__main__":
    main()
