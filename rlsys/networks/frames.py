"""Frame stacks, made when the network runs: memory and wire hold every frame once."""

import jax.numpy as jnp


def advance(frames, obs):
    """Returns the newest S - 1 of frames [B, S-1, ...] followed by obs [T, B, ...]."""
    return jnp.concatenate([frames, jnp.swapaxes(obs, 0, 1)], axis=1)[:, obs.shape[0] :]


def stack_frames(frames, age, obs, first):
    """Stacks each image with the S - 1 before it in its episode.

    Where the episode has fewer than S images, its first one stands in for those before it (as
    EnvPool's own stack_num does). Built of selects between whole shifted blocks, without a gather.

    Args:
      frames: [B, S-1, H, W, C] the images before obs[0], newest last.
      age: [B] int32, how many of the newest frames belong to obs[0]'s episode, unless it is first.
      obs: [T, B, H, W, C] images.
      first: [T, B] bool, the image opens an episode.

    Returns:
      stacked [T, B, H, W, S*C], newest last; frames and age for the image after obs[-1].
    """
    num_past, length = frames.shape[1], obs.shape[0]
    history = jnp.concatenate([jnp.swapaxes(frames, 0, 1), obs])  # [S-1+T, B, H, W, C]
    # follows[j]: history[j] continues the episode of history[j - 1].
    past = jnp.arange(num_past)[:, None] > num_past - age[None]  # [S-1, B]
    follows = jnp.concatenate([past, ~first[:1] & (age[None] > 0), ~first[1:]])  # [S-1+T, B]
    newest = jnp.ones_like(first)  # [T, B] history[j - k] is of the same episode as history[j]
    stack, num_known = [obs], jnp.ones_like(age)
    for k in range(1, num_past + 1):
        newest = newest & follows[num_past - k + 1 :][:length]
        image = history[num_past - k :][:length]
        stack.insert(0, jnp.where(newest[..., None, None, None], image, stack[0]))
        num_known = num_known + newest[-1]
    stacked = jnp.concatenate(stack, axis=-1)  # [T, B, H, W, S*C]
    return stacked, advance(frames, obs), jnp.minimum(num_known, num_past)
