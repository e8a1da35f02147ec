"""The exploitability that self-play with an entropy bonus comes to in poker, were learning exact.

    python -m experiments.poker_limits

PPO adds entropy_cost times the entropy to advantages whose deviation is 1. Where that pulls as much
as the returns do, each action's probability is proportional to exp(q / (entropy_cost * deviation)):
a logit equilibrium (McKelvey and Palfrey 1998, https://doi.org/10.1023/A:1009905800005). It is
computed once with a probability for each information set, and once for each observation, as a
policy without memory has them. Writes results/poker-limits.csv.
"""

import numpy as np

from experiments.study import RESULTS, write
from rlsys.acting.exploitability import exploitability
from rlsys.envs.poker import RULES, Tree, tree

COSTS = (0.4, 0.2, 0.1, 0.05)
ROUNDS, STEP = 4000, 0.01  # of the way to the policy that the present values ask for


def equilibrium(game: Tree, cost: float, memory: bool) -> tuple[np.ndarray, float]:
    """Returns the policy [I, A], and by how much it differs from what its own values ask for."""
    every, paths = np.arange(len(game.legal)), game.paths
    seen = np.concatenate([paths.obs[paths.last, every], game.legal], axis=1)
    alike = every if memory else np.unique(seen, axis=0, return_inverse=True)[1].ravel()
    policy = game.legal / game.legal.sum(-1, keepdims=True)
    for _ in range(ROUNDS):
        q, deviation = values(game, policy, alike)
        scaled = np.where(game.legal, q / (cost * deviation), -np.inf)
        asked = np.exp(scaled - scaled.max(-1, keepdims=True))
        asked /= asked.sum(-1, keepdims=True)
        policy, differs = policy + STEP * (asked - policy), np.abs(asked - policy).max()
    return policy, float(differs)


def values(game: Tree, policy: np.ndarray, alike: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the mean return of each action [I, A], and the deviation of returns from its mean
    over actions; alike: [I] the states that count as one have the same number."""
    reach = np.tile(game.chance, (len(game.child), 1))  # [M, D]
    for node, after in enumerate(game.child):
        for action in np.flatnonzero(after >= 0):
            reach[after[action]] = reach[node] * policy[game.info_set[node], action]
    mean, square = game.payoff.copy(), game.payoff**2  # [M, D] of who began
    total, weight = np.zeros((alike.max() + 1, policy.shape[1])), np.zeros(alike.max() + 1)
    squares = 0.0
    for node in reversed(range(len(game.child))):
        legal, sets = np.flatnonzero(game.child[node] >= 0), game.info_set[node]
        if not legal.size:
            continue
        chosen = policy[sets][:, legal].T  # [A', D]
        for action, after in zip(legal, game.child[node, legal], strict=True):
            own = reach[node] * mean[after] * (1 - 2 * game.mover[node])
            np.add.at(total[:, action], alike[sets], own)
        np.add.at(weight, alike[sets], reach[node])
        mean[node] = (chosen * mean[game.child[node, legal]]).sum(0)
        square[node] = (chosen * square[game.child[node, legal]]).sum(0)
        squares += (reach[node] * square[node]).sum()
    q = (total / weight[:, None])[alike]
    own = np.bincount(alike, minlength=len(weight))
    v = np.zeros(len(weight))
    np.add.at(v, alike, (policy * q).sum(-1) / own[alike])
    return q, float(np.sqrt((squares - (weight * v**2).sum()) / weight.sum()))


def main() -> None:
    rows = []
    for game in RULES:
        for memory in (True, False):
            for cost in COSTS:
                policy, differs = equilibrium(tree(game), cost, memory)
                found = exploitability(tree(game), policy)
                row = {"game": game, "memory": memory, "entropy_cost": cost}
                rows.append(row | {"exploitability": found, "differs": differs})
                print(*rows[-1].values())
    write(RESULTS / "poker-limits.csv", rows)


if __name__ == "__main__":
    main()
