"""An episode as a gif: at the task's own speed, with its step and its return below the picture."""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

from rlsys import streams
from rlsys.acting import playing
from rlsys.acting.playing import SEED, EvalPolicy, eval_policy
from rlsys.config import evaluated
from rlsys.envs import Episode, layout
from rlsys.running import files, output
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError

STEPS_PER_SECOND = 10.0  # of a task that does not tell its own
FRAMES_PER_SECOND = 30.0  # at most; a faster task is shown at every second step, or every third ...
MOST_MB = 8.0  # a longer gif is cut
MOST_SECONDS = 20.0  # after the first step; an episode that takes longer is cut
HOLD = 2.0  # seconds for which the last picture stays
LEAST_WIDTH, MOST_WIDTH = 180, 360  # pixels; others are enlarged by whole numbers, or shrunk
CAPTION = 18  # pixels below the picture
COLORS = 255  # in a frame, beside the one that stands for a pixel that does not change


class Frame(NamedTuple):
    """One picture of an episode, and how the episode stands."""

    picture: np.ndarray  # [H, W, 3] uint8
    episode: Episode


def record_tasks(
    folder: Path,
    algorithm: Algorithm,
    config: Any,
    network: Any,
    params: Any,
    seed: int = SEED,
    name: str = "episode",
    say: Callable[[str], None] = output.say,
) -> list[Path]:
    """Records an episode of each task as evaluation plays it, in the way that is the algorithm's
    score, beside a run's other files, and says where it is. If it cannot be drawn, one sentence
    says why.

    Args:
      seed: the environment follows from it.
      name: the gifs are called <name>.gif and, of more tasks, <name>-1.gif and so on.

    Returns:
      The gifs.
    """
    found = []
    for i, task in enumerate(evaluated(task)[-1] for task in config.tasks):  # the last player
        path = folder / (f"{name}-{i}.gif" if i else f"{name}.gif")
        try:
            rows, mode = layout(task).rows, algorithm.score_mode
            player = eval_policy(algorithm, config, network, task, rows, seed, mode, render=True)
            try:
                note = record(path, player, params)
            finally:
                player.envs.close()
        except Exception as error:  # whatever a renderer raises
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            say(f"no gif: {reason}.")
            continue
        say(f"saved {path}{note}")
        found.append(path)
    return found


def record(path: Path, player: EvalPolicy, params: Any) -> str:
    """Writes the first episode of environment 0 as a gif, cut if it passes MOST_MB or takes longer
    than MOST_SECONDS to play and draw after its first step, for which programs are compiled.

    Returns:
      Nothing where the gif has the whole episode, else words for the end of a sentence.

    Raises:
      UserError: the task has no picture, or the file cannot be written.
    """
    rate = player.envs.steps_per_second or STEPS_PER_SECOND
    try:
        with files.replacing(path) as new, new.open("wb") as file:
            return _write(file, frames(player, params, stride(rate)), rate)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from None


def stride(rate: float) -> int:
    """Gives the steps from one frame to the next, for a task of so many steps a second."""
    return max(1, round(np.ceil(rate / FRAMES_PER_SECOND)))


def frames(player: EvalPolicy, params: Any, stride: int) -> Iterator[Frame]:
    """Plays the first episode of environment 0; gives its first step, each that is a multiple of
    stride, and its last. An episode whose simulation explodes has no last step."""
    envs, policy, core_state, seed = player
    timestep, key = envs.reset(), streams.key(seed, "evaluation")
    episode = envs.running_episodes()[0]
    yield Frame(envs.render(), episode)
    for _ in range(playing.MAX_STEPS):
        action, _, core_state, key = policy(params, timestep, core_state, key)
        timestep = envs.step(np.asarray(action))
        ended = [episode for episode in envs.pop_episodes() if episode.env == 0]
        before, episode = episode.length, (ended or envs.running_episodes())[0]
        if timestep.truncated[0] and not ended:  # the simulation exploded
            return
        # A step that the learner sees spent on a reset, after a lost life, is none of the game's.
        if ended or (before < episode.length and episode.length % stride == 0):
            yield Frame(envs.render(), episode)
        if ended:
            return


def _write(file: BinaryIO, found: Iterator[Frame], rate: float) -> str:
    """Writes frames one by one, so that a long episode needs no memory; returns as record does."""
    begin, before, frame, note = None, None, next(found), ""
    for after in found:
        begin = begin or time.monotonic()  # programs were compiled for the first step
        # A gif counts in hundredths of a second: 15 frames a second are 7, 6 and 7 of them.
        delay = round(100 * after.episode.length / rate) - round(100 * frame.episode.length / rate)
        before = _append(file, before, captioned(frame), delay)
        frame, cut = after, ""
        if file.tell() > MOST_MB * 1e6:
            cut = f"at {MOST_MB:g} MB"
        elif time.monotonic() - begin > MOST_SECONDS:
            cut = f"after {MOST_SECONDS:g} seconds of drawing"
        if cut and not frame.episode.ended:
            note = f", of which {frame.episode.length:,} steps are shown: it is cut {cut}"
            break
    last = captioned(frame, "end" if frame.episode.ended else "cut here")
    _append(file, before, last, round(100 * HOLD))
    file.write(b";")
    return note


def captioned(frame: Frame, word: str = "") -> np.ndarray:
    """Returns the picture in a fitting size, with step and return below it: [H, W, 3] uint8."""
    picture = Image.fromarray(frame.picture)
    width, height = picture.size
    if width < LEAST_WIDTH:
        scale = -(-LEAST_WIDTH // width)
        picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    elif width > MOST_WIDTH:
        size = (MOST_WIDTH, round(height * MOST_WIDTH / width))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    whole = Image.new("RGB", (picture.width, picture.height + CAPTION))
    whole.paste(picture)
    text = f"step {frame.episode.length}   return {frame.episode.episode_return:.5g}   {word}"
    ImageDraw.Draw(whole).text((4, picture.height + 2), text, "white", _font())
    return np.asarray(whole)


@functools.cache
def _font() -> Any:
    return ImageFont.load_default(12)


def _append(
    file: BinaryIO, before: np.ndarray | None, picture: np.ndarray, delay: int
) -> np.ndarray:
    """Appends a frame to a gif, with the colors of what has changed, and returns the picture.

    Pillow itself would keep all frames in memory until the last one, and would not tell the size.

    Args:
      before: the picture before it; None for the first, with which the file begins.
      delay: hundredths of a second for which it stays.
    """
    changed = np.ones(picture.shape[:2], bool)
    if before is not None:
        changed = (picture != before).any(-1)
        changed[0, 0] = True  # a frame needs a pixel
    colors, index = _palette(picture[changed])
    pixels = np.full(changed.shape, len(colors), np.uint8)  # the color of what stays
    pixels[changed] = index
    image = Image.fromarray(pixels)
    image.putpalette(colors.tobytes() + bytes(3))
    if before is None:
        file.write(b"".join(GifImagePlugin.getheader(image.copy(), info={"loop": 0})[0]))
    parts = GifImagePlugin.getdata(
        image, duration=10 * delay, transparency=len(colors), disposal=1, include_color_table=True
    )
    file.write(b"".join(parts))
    return picture


def _palette(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most COLORS colors [K, 3] for pixels [N, 3], and which each has, [N]."""
    numbers = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    found, index = np.unique(numbers, return_inverse=True)
    if len(found) <= COLORS:
        return (found[:, None] >> np.array([[16, 8, 0]])).astype(np.uint8), index
    image = Image.fromarray(pixels[None]).quantize(COLORS, dither=Image.Dither.NONE)
    colors = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[:COLORS]
    return colors, np.asarray(image)[0]
