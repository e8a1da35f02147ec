"""PPO learns TicTacToe and ConnectFour by self-play: `make train ALGO=ppo ENV=TicTacToe-v1`.

    python -m experiments.games [--seeds 5] [--jobs 2]

Each run ends with 1,000 games against each player that does not learn, in each way to play.
"""

from experiments.study import Options, study
from rlsys import cli

TASKS = {"tictactoe": "TicTacToe-v1", "connectfour": "ConnectFour-v1"}
WORDS = "--eval-episodes 1000 --eval-every 500000 --no-gif"


def main(options: Options) -> None:
    for name, task in TASKS.items():
        study(name, {"ppo": ["ppo", "--env", task, *WORDS.split()]}, options)


if __name__ == "__main__":
    cli.run(main, Options(), __doc__)
