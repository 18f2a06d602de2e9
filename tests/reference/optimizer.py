"""Muon for the hidden matrices, AdamW for embeddings, norms and scalars."""

import collections

import torch


def orthogonalize(matrices):
    """[n, rows, cols] -> about U V^T of each matrix's U S V^T, by five Newton-Schulz steps."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.transpose(-1, -2) if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.transpose(-1, -2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized (Jordan et al., 2024); same shapes go together."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(list(params), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = collections.defaultdict(list)
            for param in group["params"]:
                by_shape[tuple(param.shape)].append(param)
            for (rows, cols), params in by_shape.items():
                updates = []
                for param in params:
                    state = self.state[param]
                    if not state:
                        state["momentum"] = torch.zeros_like(param)
                    buffer = state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                    updates.append(param.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, rows / cols) ** 0.5
                for param, update in zip(params, orthogonalize(torch.stack(updates))):
                    param.add_(update, alpha=-scale)


def build(model, muon_lr, adam_lr):
    hidden, rest = [], []
    for name, param in model.named_parameters():
        matrix = param.ndim == 2 and "embed_tokens" not in name
        (hidden if matrix else rest).append(param)
    adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(hidden, muon_lr), adam]


# (share of the run, share of the full learning rate), joined by straight lines. The steep end goes
# with the long contexts, see train.py.
KNOTS = [(0.0, 1.0), (8 / 15, 1.0), (0.8, 2 / 3), (1.0, 0.0)]
WARMUP_STEPS = 100


def schedule(step, steps):
    """The share of the full learning rate at a step, 0 <= step < steps."""
    done = step / steps
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    for (begin, high), (end, low) in zip(KNOTS, KNOTS[1:]):
        if done < end:
            return warmup * (high + (low - high) * (done - begin) / (end - begin))
    return 0.0
