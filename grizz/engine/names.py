"""What clients may call models: aliases, and what an API key may ask for."""

from __future__ import annotations

from collections.abc import Mapping

from grizz.config import KeySettings, ModelSettings
from grizz.config.aliases import resolve, targets
from grizz.errors import Code, RequestError


class Names:
    """Names of models, as the settings have them; of a key that is not there nothing is known, and nothing refused."""

    def __init__(self, models: ModelSettings, keys: Mapping[str, KeySettings]) -> None:
        self.reload(models, keys)

    def reload(self, models: ModelSettings, keys: Mapping[str, KeySettings]) -> None:
        """Go by other settings from now on."""
        self.aliases: Mapping[str, str] = targets(models.aliases)
        self._keys = keys

    def resolve(self, name: str) -> str:
        """The model that a name stands for."""
        return resolve(self.aliases, name)

    def allows(self, key: str, name: str) -> bool:
        """May that key ask for it? By the name it uses, or the one that this stands for."""
        rules = self._keys.get(key)
        return rules is None or not rules.models or bool({name, self.resolve(name)} & set(rules.models))

    def default(self, key: str, of_server: str) -> str:
        """What answers requests of that key that name no model: its own default, else the server's, if it may."""
        rules = self._keys.get(key)
        if rules is None:
            return of_server
        if rules.model:
            return rules.model
        return of_server if self.allows(key, of_server) else rules.models[0]

    def check(self, key: str, name: str) -> None:
        """May that key ask for it?

        Raises:
            RequestError: 404, as for a model that does not exist.
        """
        if not self.allows(key, name):
            text = f"The model '{name[:200]}' does not exist, or your API key may not use it."
            raise RequestError(404, Code.MODEL_NOT_FOUND, text, param="model")
