"""The verb `serve`."""

from __future__ import annotations

from dataclasses import replace

from riboray.console import say, show, tell
from riboray.errors import ConfigError
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import LOCAL, prepare_ray
from riboray.serving.config import ServeConfig
from riboray.serving.keys import new_key
from riboray.serving.names import named_tasks

__all__ = ["resolved", "serve"]


def resolved(config: ServeConfig) -> ServeConfig:
    """Name checkpoints and database as they are called everywhere, wherever replicas run.

    Raises
    ------
    CheckpointError, CorpusError
        If one cannot be read.
    """
    config = replace(config, checkpoint=load_checkpoint(config.checkpoint).name)
    if config.tasks:
        from riboray.serving.tasks import Tasks

        tasks = Tasks(named_tasks(config.tasks))
        config = replace(
            config, tasks=[f"{i.task}={tasks[i.task].checkpoint}" for i in tasks.infos]
        )
    if config.db is None:
        return config
    from riboray.alignment.index import open_database

    database, _ = open_database(config.db, config.checkpoint)
    return replace(config, db=str(database.directory))


def serve(config: ServeConfig) -> dict[str, str]:
    """Serve a checkpoint until Ctrl-C; or make a key and return it.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read; found before anything is started.
    CorpusError
        If the database cannot be read, or another model made it; found as early.
    InputError
        If the certificate cannot be used.
    ConfigError
        If the network could use the service without a key.
    """
    if config.new_key is not None:
        key, entry = new_key(config.new_key)
        show(entry)
        tell(f"the key, which is shown this once: {key}")
        return {"key": key, "entry": entry}
    keys = config.read_keys()
    config.http_options()
    config = resolved(config)
    ray_address = prepare_ray(config.ray_address)
    if ray_address != LOCAL and not (keys or config.without_keys):
        raise ConfigError(
            "what address Serve listens on there is the cluster's matter: give --keys, or say "
            "--without-keys true"
        )
    from riboray.serving.pipeline import serve_forever

    say(f"loading {config.checkpoint}")
    serve_forever(
        replace(config, ray_address=ray_address),
        keys,
        lambda: say(f"serving {config.url}/v1/info  (API: {config.url}/openapi.json; Ctrl-C ends)"),
    )
    return {"served": config.url}
