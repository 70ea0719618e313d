"""The matrix products of a training step alone, by XLA and by PyTorch on CPU: what the rest of a step has left.

    python -m benchmarks.products --case=vit

Times every kind of product in the frame level of a case of `benchmarks.train_step`, once each in turns, and sums
them up over its layers. Where XLA needs as long for the products as PyTorch for the whole step, nothing that is
written around them can make ours the faster one. Needs torch.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin while XLA is timed
os.environ.setdefault("KMP_BLOCKTIME", "0")

ROUNDS = 7
# name: layers, sequences, tokens, heads, head width; the MLP is four times as wide as the tokens
CASES = {"linear": (3, 320, 49, 4, 32), "vit": (12, 32, 197, 6, 64)}
# How the operands [rows, in] and [in, out], or [.., q, k] and [.., s, k], enter each product.
PRODUCTS = {
    "forward": ("ri,io->ro", False, False),
    "input gradient": ("ro,io->ri", False, True),
    "weight gradient": ("ri,ro->io", True, False),
    "logits": ("bqk,bsk->bqs", False, True),
    "mixed values": ("bqs,bsk->bqk", False, False),
    "value gradient": ("bqs,bqk->bsk", True, False),
}


def operands(case: str) -> list[tuple[str, str, int, tuple[int, ...], tuple[int, ...]]]:
    """Return (product, size, how many in a step, shape, shape) of every product."""
    layers, sequences, tokens, heads, head_width = CASES[case]
    rows, width, batch = sequences * tokens, heads * head_width, sequences * heads
    found = []
    for width_in, width_out in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        size = f"{rows}x{width_in}x{width_out}"
        found.append(("forward", size, layers, (rows, width_in), (width_in, width_out)))
        found.append(("input gradient", size, layers, (rows, width_out), (width_in, width_out)))
        found.append(("weight gradient", size, layers, (rows, width_in), (rows, width_out)))
    size, narrow, square = (
        f"{batch}x{tokens}x{tokens}x{head_width}",
        (batch, tokens, head_width),
        (batch, tokens, tokens),
    )
    found.append(("logits", size, 2 * layers, narrow, narrow))  # and the gradient of the weights
    found.append(("mixed values", size, 2 * layers, square, narrow))  # and the gradient of the queries
    found.append(("value gradient", size, 2 * layers, square, narrow))  # and that of the keys
    return found


def measure(product: str, shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> tuple[float, float]:
    """Return the seconds of one product by XLA and by PyTorch, medians of runs in turns."""
    import jax
    import torch

    pattern, first_turned, second_turned = PRODUCTS[product]
    keys = jax.random.split(jax.random.key(0))
    arrays = jax.random.normal(keys[0], shape_a), jax.random.normal(keys[1], shape_b)
    tensors = torch.randn(shape_a), torch.randn(shape_b)
    by_xla = jax.jit(lambda a, b: jax.numpy.einsum(pattern, a, b))

    def by_torch() -> None:
        first, second = tensors
        (first.mT if first_turned else first) @ (second.mT if second_turned else second)

    seconds = {"xla": [], "torch": []}
    for _ in range(ROUNDS):
        for name, run in (("xla", lambda: jax.block_until_ready(by_xla(*arrays))), ("torch", by_torch)):
            run()  # not counted: what the other one's turn drove out of the caches comes back
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["xla"][1:]), statistics.median(seconds["torch"][1:])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="vit", choices=CASES)
    case = parser.parse_args().case
    print("| product | size | in a step | XLA ms | torch ms | ratio |")
    print("|---|---|---|---|---|---|")
    sums = [0.0, 0.0]
    for product, size, count, shape_a, shape_b in operands(case):
        xla, torch = measure(product, shape_a, shape_b)
        sums[0] += count * xla
        sums[1] += count * torch
        print(f"| {product} | {size} | {count} | {1000 * xla:.1f} | {1000 * torch:.1f} | {xla / torch:.2f} |")
    print(f"| all | {case} | | {1000 * sums[0]:.0f} | {1000 * sums[1]:.0f} | {sums[0] / sums[1]:.2f} |")


if __name__ == "__main__":
    main()
