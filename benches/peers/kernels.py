"""Two kernels in plain PyTorch, beside `gpurec bench gru` and `gpurec bench kl-div`: forward and backward, the median of the calls.

    python kernels.py --threads 2
    gpurec bench gru --device cpu --threads 2
    gpurec bench kl-div --device cpu --threads 2
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


def gru(batch, steps, dim, hidden):
    cell = nn.GRU(dim, hidden, batch_first=True)
    x = torch.randn(batch, steps, dim, requires_grad=True)
    dy = torch.randn(batch, steps, hidden)

    def call():
        cell.zero_grad()
        x.grad = None
        cell(x)[0].backward(dy)

    return call


def kl_div(rows, dim, items):
    """Student and teacher keep their scores [rows, items]; no gradient reaches the teacher."""
    hidden, teacher = (torch.randn(rows, dim) * 0.5 for _ in range(2))
    table, taught = (torch.randn(items, dim) * 0.1 for _ in range(2))
    hidden.requires_grad_()
    table.requires_grad_()

    def call():
        hidden.grad = table.grad = None
        with torch.no_grad():
            wanted = (teacher @ taught.T).log_softmax(1)
        student = (hidden @ table.T).log_softmax(1)
        F.kl_div(student, wanted, log_target=True, reduction="batchmean").backward()

    return call


def milliseconds(call, seconds):
    call(), call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    print(f"torch {torch.__version__}, {args.threads} threads, milliseconds of forward and backward")
    for shape in [dict(batch=256, steps=50, dim=64, hidden=64), dict(batch=256, steps=50, dim=64, hidden=256)]:
        print("gru", shape, round(milliseconds(gru(**shape), args.seconds), 1))
    for shape in [dict(rows=1024, dim=256, items=12_101), dict(rows=1024, dim=256, items=36_098)]:
        print("kl-div", shape, round(milliseconds(kl_div(**shape), args.seconds), 1))


if __name__ == "__main__":
    main()
