"""Presets: an algorithm's Configs by name, and which task gets which."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rlsys import envs
from rlsys.types import UserError


class Presets(NamedTuple):
    """An algorithm's Configs by name, and which task gets which."""

    configs: dict[str, Any]  # the first is the default, "small" is for what nothing else suits
    suits: dict[str, str]  # family of tasks, or a task -> name
    # The same where there is no accelerator. It goes before suits.
    on_cpu: Mapping[str, str] = MappingProxyType({})
    # (config, number of tasks) -> values of fields that several tasks need
    for_tasks: Callable[[Any, int], dict[str, Any]] = lambda config, num_tasks: {}

    def choose(self, name: str | None, env: str | None, on_cpu: bool) -> Any:
        """The preset of that name or, without one, what suits the tasks; set to the tasks if given.

        Args:
          name: a preset's, or None.
          env: the tasks, as a Config has them, or None for the preset's own.
          on_cpu: whether it is for a machine without accelerator.

        Raises:
          UserError: there is no such preset, or no such task.
        """
        if name is None and env is not None:
            name = self._suiting(env, on_cpu)
        name = next(iter(self.configs)) if name is None else name
        if name not in self.configs:
            raise UserError(f"there is no preset {name!r}, only {', '.join(self.configs)}")
        config = self.configs[name]
        changes = {"env": config.env, "env_options": config.env_options}
        if env is not None and env != config.env:
            changes = {"env": env, "env_options": self._options(config, env)}
        tasks = envs.read_tasks(changes["env"], changes["env_options"])
        if len(tasks) > 1:
            changes |= self.for_tasks(config, len(tasks))
        elif (rows := envs.layout(tasks[0]).rows) > 2:  # whole games of teams of any size
            changes |= {"num_envs": max(config.num_envs // rows, 1) * rows}
        return dataclasses.replace(config, **changes)

    def nearest(self, config: Any) -> tuple[str, dict[str, Any]]:
        """The name of the preset that differs from a Config in the fewest fields, and the Config's
        own values of these fields; env, seed and run_dir, which a preset leaves open, count not."""

        def differs(preset: Any) -> dict[str, Any]:
            names = [f.name for f in dataclasses.fields(config)]
            found = {name: getattr(config, name) for name in names}
            found = {n: value for n, value in found.items() if value != getattr(preset, n)}
            return {n: value for n, value in found.items() if n not in ("env", "seed", "run_dir")}

        found = {name: differs(preset) for name, preset in self.configs.items()}
        name = min(found, key=lambda name: (len(found[name]), self.configs[name].env != config.env))
        return name, found[name]

    def _suiting(self, env: str, on_cpu: bool) -> str:
        """The name of the preset that suits tasks."""
        plain = envs.Options()
        own = [n for n, x in self.configs.items() if (x.env, x.env_options) == (env, plain)]
        special = self._meant(self.on_cpu, env) if on_cpu else []
        return [*special, *own, *self._meant(self.suits, env), "small"][0]

    def _options(self, config: Any, env: str) -> envs.Options:
        """Options for tasks not the preset's own: the preset's, if it is for their family."""
        options = envs.Options()
        meant = self._meant(self.suits, env) + self._meant(self.on_cpu, env)
        if config.env_options in [self.configs[name].env_options for name in meant]:
            options = config.env_options
        if len(envs.read_tasks(env, options)) > 1:  # games do not share which actions they use
            options = dataclasses.replace(options, minimal_actions=False)
        return options

    @staticmethod
    def _meant(table: Mapping[str, str], env: str) -> list[str]:
        """The names that a table gives to the one task of env, and to the one family of its
        tasks."""
        env_ids = {task.env_id for task in envs.read_tasks(env, envs.Options())}
        kinds = {"game" if envs.is_game(env_id) else envs.family(env_id) for env_id in env_ids}
        words = [word for group in (env_ids, kinds) if len(group) == 1 for word in group]
        return [table[word] for word in words if word in table]
