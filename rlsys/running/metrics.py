"""The glossary of all metrics that a run's log holds: name, unit, and what it says.

python -m rlsys metrics    prints it

metrics.jsonl has the names as they are. TensorBoard's tags have the group before them, as in
train/loss, unless the name begins with its group. A name that ends in /<task> stands for one metric
of each task. A line has null where a number is not known. A number is of the time since the line
before, unless it says otherwise; one of updates is the mean over them.
"""

import textwrap
from typing import NamedTuple

from rlsys.running.checks import CHECKS


class Metric(NamedTuple):
    """Explains one metric."""

    name: str
    unit: str  # "" for a plain number
    words: str  # one sentence


OF_TASK = "/<task>"
RETURN = "reward"  # as the task pays it
GROUPS: dict[str, tuple[Metric, ...]] = {
    "train": (
        Metric("loss", "", "The loss that the optimiser minimises."),
        Metric("pg_loss", "", "The policy-gradient term of the loss (PPO, IMPALA)."),
        Metric("value_loss", "", "The value term of the loss before its weight (PPO)."),
        Metric("baseline_loss", "", "The value term of the loss before its weight (IMPALA)."),
        Metric("entropy", "nats", "The policy's mean entropy; a categorical policy's is 0 if "
               "it always takes the same action, and a Gaussian one's depends on the actions' "
               "units and may be negative."),
        Metric("kl", "nats", "The KL divergence between the policy that acted and the one that "
               "learns; 0 if no update lies between them."),
        Metric("ratio_clipped", "share", "Samples whose ratio of probabilities is outside PPO's "
               "clipping range."),
        Metric("rho_mean", "", "The mean importance ratio of IMPALA; it is near 1 while the actors "
               "play the policy that learns."),
        Metric("rho_clipped", "share", "Importance ratios that V-trace clips (IMPALA)."),
        Metric("v_mean", RETURN, "The mean of the values that the network predicts."),
        Metric("explained_variance", "share", "The variance of the value targets that the values "
               "explain; 1 is perfect, 0 is no better than a constant, and less than -1 is logged "
               "as -1. On a solved task returns hardly differ, and it may be low although the "
               "values are right within value_error."),
        Metric("value_error", "share", "The standard deviation of the errors of the values, "
               "divided by the root mean square of their targets; more than 10 is logged as 10."),
        Metric("advantage_deviation", "", "The standard deviation of the advantages before PPO "
               "divides by it, in units of popart_scale."),
        Metric(f"popart_mean{OF_TASK}", RETURN, "The mean of the task's value targets, by which "
               "PopArt shifts values."),
        Metric(f"popart_scale{OF_TASK}", RETURN, "The number by which PopArt divides the task's "
               "values: the deviation of its value targets, or popart_floor times the size of "
               "their mean if that is more."),
        Metric("td_error", "", "The mean absolute temporal-difference error; R2D2's are of "
               "rescaled returns."),
        Metric("q_mean", "", "The mean Q-value over all actions; R2D2's are rescaled."),
        Metric("q_abs_max", "", "The largest absolute Q-value in a sample, on average over "
               "samples."),
        Metric("importance_weight", "", "The mean weight of a sample, which corrects for drawing "
               "by priority."),
        Metric("learned_share", "share", "Steps of the drawn sequences that are learned from; the "
               "others are padding past an episode's end (R2D2)."),
        Metric("learning_rate", "", "The optimiser's learning rate, which follows its schedule."),
        Metric("gradient_norm", "", "The gradient's norm before it is clipped."),
        Metric("gradient_clipped", "share", "Updates whose gradient had a norm above "
               "max_gradient_norm; not logged with PPO's clip_entries, which has no such norm."),
        Metric("params_norm", "", "The norm of all learned parameters."),
        Metric("update_ratio", "share", "The norm of an update divided by that of the "
               "parameters."),
        Metric("dead_units", "share", "Hidden units that are 0 on a whole unroll; if there are "
               "several tasks, on the latest unroll of each."),
        Metric("params_lag", "updates", "How many updates the parameters that act are behind those "
               "that learn."),
        Metric("staleness", "unrolls", "The same lag in unrolls, each of which is learned from in "
               "several updates."),
        Metric("team_spirit", "share", "The part of a player's reward that is its team's mean, in "
               "games of two teams (PPO)."),
        Metric("sample_reuse", "times", "How often PPO learns from each step."),
        Metric(f"share{OF_TASK}", "share", "The task's part of the steps that IMPALA learns from."),
    ),
    "episode": (
        Metric("episodes", "episodes", "The number of episodes that the other metrics of episodes "
               "are taken over."),
        Metric("episode_return", RETURN, "The mean return of these episodes, of the task's own "
               "rewards, neither clipped nor discounted."),
        Metric("episode_return_min", RETURN, "The smallest return of these episodes."),
        Metric("episode_return_max", RETURN, "The largest return of these episodes."),
        Metric("episode_length", "steps", "The mean length of these episodes."),
        Metric(f"episode_return{OF_TASK}", RETURN, "The mean return in one of several tasks."),
    ),
    "time": (
        Metric("env_steps", "steps", "Environment steps since the run began, all environments "
               "together."),
        Metric("learner_steps", "updates", "Updates since the run began."),
        Metric("seconds", "s", "Wall time since the run began, without the time that it was "
               "stopped."),
        Metric("env_steps_per_second", "steps/s", "How fast the environments are played."),
        Metric("learner_steps_per_second", "updates/s", "How fast updates are made."),
        Metric("time/environment", "share", "Wall time that actors spend in the environments; "
               "threads add up."),
        Metric("time/inference", "share", "Wall time that actors spend choosing actions; threads "
               "add up."),
        Metric("time/learner", "share", "Wall time that the learner spends on updates."),
        Metric("time/replay", "share", "Wall time that storing and drawing samples takes."),
        Metric("time/waiting", "share", "Wall time that the learner waits for actors."),
        Metric("time/evaluation", "share", "Wall time that evaluations during training take."),
        Metric("time/checkpoint", "share", "Wall time that saving checkpoints takes."),
        Metric("time/log", "share", "Wall time that measuring for the log and writing it takes."),
    ),
    "replay": (
        Metric("replay_ratio", "", "Steps learned from for each step played, since the run "
               "began, or since it was resumed with another ratio or other samples."),
        Metric("replay/sequences", "sequences", "The number of samples in the replay that can be "
               "drawn."),
        Metric("replay/drawable_share", "share", "Stored steps that some sample which can be drawn "
               "learns from."),
        Metric("replay/sample_age", "steps", "Environment steps between a sample's last step and "
               "its being drawn, on average."),
        Metric("replay/sample_uses", "times", "How often a drawn sample was drawn until then, on "
               "average."),
    ),
    "opponents": (
        Metric("opponents/past_selves", "", "The number of past selves that the learner may meet "
               "in games of two."),
        Metric("opponents/score", "share", "The learner's points of a game against past selves: 1 "
               "for a win, 0.5 for a draw."),
        Metric("opponents/quality_range", "", "How far the highest quality of a past self lies "
               "above the lowest; past selves are drawn in proportion to exp(quality)."),
    ),
    "randomise": (
        Metric("randomise/draws", "draws", "The number of draws of a group's physics that began to "
               "be played."),
        Metric("randomise/refused", "draws", "The number of draws that were set aside: MuJoCo did "
               "not take the model, or a number of the simulation was not finite."),
        Metric("randomise/entropy", "nats", "The entropy of the draws from ranges that adapt, for "
               "each parameter; 0 where all are as wide as they may be, null while one is a "
               "point."),
        Metric("randomise/width", "share", "How wide ranges that adapt are on average, of what "
               "they may be."),
        Metric("randomise/boundary_episodes", "episodes", "The number of episodes at the ends of "
               "ranges that adapt which count for a decision."),
        Metric("randomise/boundary_return", RETURN, "The mean return of these episodes."),
    ),
    "health": tuple(
        Metric(f"health/{check.name}", "0 or 1", f'1 while the run warns "{check.words}".')
        for check in CHECKS
    ),
    "eval": (
        Metric("eval/greedy_return", RETURN, "The mean return of the episodes that an evaluation "
               "during training (--eval-every) plays greedily; of several tasks the mean."),
        Metric("eval/sampled_return", RETURN, "The same with actions drawn from the policy "
               "(PPO, IMPALA)."),
        Metric("eval/ladder_return", RETURN, "The same with random actions as often as in training "
               "(R2D2, Ape-X)."),
        Metric(f"eval/greedy_return{OF_TASK}", RETURN, "The mean return of greedy play in one of "
               "several tasks."),
        Metric(f"eval/sampled_return{OF_TASK}", RETURN, "The mean return of drawn play in one of "
               "several tasks."),
        Metric("eval/greedy_ended", "share", "Episodes of such an evaluation, played greedily, "
               "that ended; the others were cut and count with their return so far."),
        Metric("eval/sampled_ended", "share", "The same with actions drawn from the policy "
               "(PPO, IMPALA)."),
        Metric("eval/ladder_ended", "share", "The same with random actions as often as in training "
               "(R2D2, Ape-X)."),
        Metric("eval/exploitability", RETURN, "What the best opponent would win from the policy in "
               "a game of poker, on average over who begins; 0 if it cannot be beaten."),
        Metric("eval/greedy_win_rate", "share", "Games of two teams that an evaluation during "
               "training wins against an opponent that does not learn, playing greedily."),
        Metric("eval/sampled_win_rate", "share", "The same with actions drawn from the policy "
               "(PPO)."),
        Metric("eval/successes", "goals", "How many goals an episode of such an evaluation "
               "reaches, played in the way that is the algorithm's score, where the task tells."),
        Metric("eval/best", RETURN, "The highest score of the evaluations so far, which is of the "
               "mode of play that is the algorithm's score; its parameters are kept."),
    ),
}  # fmt: skip
GROUP_OF = {metric.name: group for group, metrics in GROUPS.items() for metric in metrics}


def glossary_name(name: str) -> str:
    """Return the name under which the glossary has a metric of the log."""
    parts = name.split("/")
    own = 2 if parts[0] in GROUPS else 1  # the others are the task's
    return "/".join(parts[:own]) + (OF_TASK if parts[own:] else "")


def tag(name: str) -> str:
    """Return TensorBoard's tag of a metric; one that is not in the glossary is in train/, as a
    metric of one's own algorithm is."""
    if name.partition("/")[0] in GROUPS:
        return name
    return f"{GROUP_OF.get(glossary_name(name), 'train')}/{name}"


def describe() -> str:
    """Return the glossary as text of at most 80 columns."""
    lines = textwrap.wrap(" ".join(str(__doc__).split("\n\n")[2].split()), 79)
    for group, metrics in GROUPS.items():
        if metrics:
            lines += ["", f"{group}/"]
        for name, unit, words in metrics:
            head = f"  {name}" + (f" [{unit}]" if unit else "")
            lines += [head, *textwrap.wrap(words, 79, initial_indent=" " * 6,
                                           subsequent_indent=" " * 6)]  # fmt: skip
    lines += ["", *textwrap.wrap(
        "In TensorBoard alone: eval/ also has the mean return, the mean length and the share of "
        "ended episodes of each evaluation at the end and by make eval, and the gifs.", 79,
        initial_indent="  ", subsequent_indent="  ")]  # fmt: skip
    return "\n".join(lines)
