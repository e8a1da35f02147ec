"""The whole trees of Kuhn and Leduc poker, as EnvPool's tasks play and show them.

PGX (Koyamada et al. 2023, https://arxiv.org/abs/2303.17503) plays by the rules of Kuhn 1950, "A
Simplified Two-Person Poker", and of Southey et al. 2005, "Bayes' Bluff: Opponent Modelling in
Poker", https://arxiv.org/abs/1207.1411. Who begins is drawn for each game; here players are told
apart by that, not by their row. Rewards are in antes. In Kuhn each player pays 1 and may bet 1
more. In Leduc each pays 1, and a raise is of 2, or of 4 once the public card lies open; a round has
two at most. OpenSpiel's kuhn_poker and leduc_poker pay the same.

A task shows a player the cards and the stakes, not the moves, nor who began. So states that the
rules tell apart may look alike, and only a policy with memory can play them differently: in Kuhn
poker whoever faces a bet sees the same whether it began or not. The least exploitability that a
search by gradients found there without memory is 1/36.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DRAW, FIRST, SECOND = 0, 1, -1  # who wins a showdown


class Position(NamedTuple):
    """Where the betting stands after some actions."""

    mover: int  # 0 for the player who begins, else 1
    legal: tuple[int, ...]  # actions; none once the game is over
    stakes: tuple[int, int]  # of the first and the second player, without what is shown as 0
    public: bool = False  # whether the public card lies open
    folded: int | None = None  # who gave up


class Rules(NamedTuple):
    """A game of poker: betting, which all see, over cards, which are dealt at the start."""

    position: Callable[[tuple[int, ...]], Position]  # after these actions
    deck: tuple[int, ...]  # the rank of each card
    dealt: int  # cards of a game: one for each player, and a public one in Leduc
    num_actions: int
    ante: int  # that each player loses beyond its stakes
    most: int  # the largest stakes


class Tree(NamedTuple):
    """A game of M nodes, D deals and I information sets; parents stand before their children.

    A node is what was bet so far. Together with a deal it is a state of the game. An information
    set holds the states between which the player to move cannot tell, who remembers all it saw.
    """

    deals: np.ndarray  # [D, 2 or 3] int, ranks: who begins has, the other has, and lies open
    mover: np.ndarray  # [M] int: 0 for who began, 1 for the other
    child: np.ndarray  # [M, A] int, the node after an action; -1 where it is illegal
    chance: np.ndarray  # [D] float64
    payoff: np.ndarray  # [M, D] float64, of who began; 0 before the end
    info_set: np.ndarray  # [M, D] int, of the player to move; -1 at the end
    legal: np.ndarray  # [I, A] bool
    paths: "Paths"


class Paths(NamedTuple):
    """A row of the task sees and does this up to each information set, in T steps; then all is 0.

    A row steps while the other moves, too; its only legal action is 0 then.
    """

    obs: np.ndarray  # [T, I, ...] bool
    legal: np.ndarray  # [T, I, A] bool
    action: np.ndarray  # [T, I] int32
    last: np.ndarray  # [I] int, the step at which the row is to move


def kuhn(actions: tuple[int, ...]) -> Position:
    """Kuhn poker: 0 bets, or holds a bet; 1 passes, or folds."""
    bets = [actions[player::2].count(0) for player in (0, 1)]
    mover, over = len(actions) % 2, actions[-2:] in ((0, 0), (0, 1), (1, 1))
    folded = 1 - mover if actions[-2:] == (0, 1) else None
    return Position(mover, () if over else (0, 1), (bets[0], bets[1]), folded=folded)


def leduc(actions: tuple[int, ...]) -> Position:
    """Leduc poker: 0 calls, or checks; 1 raises; 2 folds. Who began begins each round."""
    stakes, mover, second, moves, raises = [1, 1], 0, False, 0, 0
    for action in actions:
        if action == 2:
            return Position(1 - mover, (), (stakes[0], stakes[1]), second, mover)
        stakes[mover] = stakes[1 - mover] + (4 if second else 2) * action
        moves, raises, mover = moves + 1, raises + action, 1 - mover
        if action == 0 and moves > 1:  # a round is over when a bet is called, or both have checked
            if second:
                return Position(mover, (), (stakes[0], stakes[1]), second)
            mover, second, moves, raises = 0, True, 0, 0
    may = [True, raises < 2, stakes[0] != stakes[1]]
    legal = tuple(action for action in range(3) if may[action])
    return Position(mover, legal, (stakes[0], stakes[1]), second)


RULES = {
    "KuhnPoker-v1": Rules(kuhn, (0, 1, 2), dealt=2, num_actions=2, ante=1, most=1),
    "LeducHoldem-v1": Rules(leduc, (0, 0, 1, 1, 2, 2), dealt=3, num_actions=3, ante=0, most=13),
}


def showdown(cards: tuple[int, ...]) -> int:
    """Returns who wins with these cards: a pair with the public card, else the higher card."""
    first, second, *public = cards
    if first == second:
        return DRAW
    if second in public:
        return SECOND
    return FIRST if first in public or first > second else SECOND


def observation(rules: Rules, cards: tuple[int, ...], at: Position, player: int) -> np.ndarray:
    """Returns what the task shows a player: its card, the public one if there is such, its own
    stakes and the other's, each as a one-hot vector; one of zeros for a card that lies hidden."""
    size = rules.most + 1
    card, hidden, stakes = np.eye(3, dtype=bool), np.zeros(3, bool), np.eye(size, dtype=bool)
    public = [card[x] if at.public else hidden for x in cards[2:]]
    own, other = at.stakes[player], at.stakes[1 - player]
    return np.concatenate([card[cards[player]], *public, stakes[own], stakes[other]])


@functools.cache
def tree(game: str) -> Tree:
    """Builds the tree of a game; game: one of RULES."""
    rules = RULES[game]
    deals, ways = np.unique(
        list(itertools.permutations(rules.deck, rules.dealt)), axis=0, return_counts=True
    )
    cards = [tuple(deal) for deal in deals.tolist()]
    nodes: list[tuple[int, ...]] = [()]  # grows as it is gone through
    child = []
    for actions in nodes:
        row = np.full(rules.num_actions, -1)
        for action in rules.position(actions).legal:
            row[action] = len(nodes)
            nodes.append((*actions, action))
        child.append(row)
    positions = [rules.position(actions) for actions in nodes]
    payoff = np.zeros((len(nodes), len(cards)))
    info_set = np.full(payoff.shape, -1)
    first_state: dict[tuple, tuple[int, int]] = {}  # by what a player knows: the node and the deal
    for (node, at), (deal, own) in itertools.product(enumerate(positions), enumerate(cards)):
        if at.legal:
            known = node, own[at.mover], own[2:] if at.public else ()
            first_state.setdefault(known, (node, deal))
            info_set[node, deal] = list(first_state).index(known)
        elif at.folded is None:
            payoff[node, deal] = showdown(own) * (rules.ante + at.stakes[0])
        else:
            sign = SECOND if at.folded == 0 else FIRST
            payoff[node, deal] = sign * (rules.ante + at.stakes[at.folded])
    states = [(nodes[node], cards[deal]) for node, deal in first_state.values()]
    paths = _paths(rules, states)
    legal = paths.legal[paths.last, np.arange(len(states))]
    mover = np.array([at.mover for at in positions])
    return Tree(deals, mover, np.stack(child), ways / ways.sum(), payoff, info_set, legal, paths)


def _paths(rules: Rules, states: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Paths:
    """Returns what the player to move has seen and done, for each (actions, cards)."""
    last = np.array([len(actions) for actions, _ in states])
    shape = int(last.max()) + 1, len(states)
    seen = np.zeros((*shape, len(observation(rules, states[0][1], rules.position(()), 0))), bool)
    legal, done = np.zeros((*shape, rules.num_actions), bool), np.zeros(shape, np.int32)
    for i, (actions, cards) in enumerate(states):
        player = rules.position(actions).mover
        for step in range(len(actions) + 1):
            at = rules.position(actions[:step])
            mine = at.mover == player
            seen[step, i] = observation(rules, cards, at, player)
            legal[step, i, list(at.legal) if mine else 0] = True
            if mine and step < len(actions):
                done[step, i] = actions[step]
    return Paths(seen, legal, done, last)
