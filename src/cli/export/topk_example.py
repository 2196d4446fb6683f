"""Top-k lists from the tables of an exported model, with numpy alone; `python topk_example.py` checks the examples."""

import json
import pathlib

import numpy as np


def load(path):
    """The tensors of a safetensors file, by name; all are f32 here."""
    content = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    data = {name: content[start + t["data_offsets"][0] : start + t["data_offsets"][1]] for name, t in header.items()}
    return {name: np.frombuffer(data[name], "<f4").reshape(t["shape"]) for name, t in header.items()}


def scores_of(query, table, bias=None):
    """[V]: the score of every item for one query vector [D]."""
    scores = table @ query
    return scores if bias is None else scores + bias


def top_k(scores, history, k):
    """The rows of the k best items that are not in the history (rows too), best first, equal scores by the lower row."""
    candidates = np.setdiff1d(np.arange(len(scores)), history)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]


def main():
    folder = pathlib.Path(__file__).resolve().parent
    items = (folder / "items.txt").read_text(encoding="utf-8").split("\n")[:-1]
    row_of = {item: row for row, item in enumerate(items)}
    tables = load(folder / "item_table.safetensors")
    queries = load(folder / "examples.safetensors")["query"]
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    for number, (query, example) in enumerate(zip(queries, examples, strict=True)):
        scores = scores_of(query, tables["table"], tables.get("bias"))
        expected = [row_of[item] for item in example["items"]]
        found = top_k(scores, [row_of[item] for item in example["history"]], len(expected))
        # Sums in another order differ in the last bits: items that close may change places.
        close = dict(rtol=1e-4, atol=1e-5)
        assert np.allclose(scores[expected], example["scores"], **close), f"example {number}: other scores"
        assert np.allclose(scores[found], scores[expected], **close), f"example {number}: other items"
        print(f"example {number}: {', '.join(items[row] for row in found)}")
    print(f"all {len(examples)} lists found again, over {len(items)} items")


if __name__ == "__main__":
    main()
