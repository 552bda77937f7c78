"""What answers: the model servers of the settings, opened; or the demo model, or one on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from grizz.config import Settings, UpstreamSettings
from grizz.engine.member import Member, Terms
from grizz.tasks import TaskOwner
from grizz.upstream.demo import DemoServer
from grizz.upstream.local import LocalServer
from grizz.upstream.openai import OpenAIUpstream

log = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
DEMO_MODEL = "grizz-demo"
OPENAI_MODEL = "gpt-5-mini"
# A large model on a small machine takes long to load and to read a prompt, and who started it wants it waited for.
_LOCAL_LOADING_S, _LOCAL_FIRST_TOKEN_S = 300.0, 110.0


class Behind:
    """The upstreams of one process.

    Args:
        tasks: owns what watches the local model.
        ends: what to call, the last first, when the process ends; each upstream that is opened is added.

    Attributes:
        local: the model on this machine, if that answers.
    """

    def __init__(
        self, settings: Settings, tasks: TaskOwner, ends: list[Callable[[], Coroutine[Any, Any, Any]]]
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._ends = ends
        self._demo: DemoServer | None = None
        self.local: LocalServer | None = None

    def __repr__(self) -> str:
        return f"<Behind: {self._demo or self.local or 'model servers'}>"

    @property
    def is_demo(self) -> bool:
        """Does the demo model answer?"""
        return self._demo is not None

    async def open(self) -> list[Member]:
        """The demo or local model alone, the named upstreams, or the one of [upstream]; the best first."""
        settings = self._settings
        if settings.local.enabled:
            return [self._open_local()]
        if settings.uses_demo:
            self._demo = DemoServer(tokens_per_second=settings.demo.tokens_per_second)
            await self._demo.start()
            self._ends.append(self._demo.stop)
            log.warning(
                "answers come from the built-in demo model; set OPENAI_API_KEY or OPENAI_BASE_URL to talk to a real one"
            )
            demo = replace(settings.upstream, base_url=self._demo.url, api_key="demo")
            return [self._open_upstream("demo", demo, named=False)]
        if not settings.upstreams:
            alone = settings.upstream
            host = urlsplit(alone.base_url or OPENAI_URL).hostname
            return [self._open_upstream(host or "upstream", alone, named=False)]
        by_priority = sorted(settings.upstreams.items(), key=lambda item: item[1].priority)
        return [self._open_upstream(name, one, named=True) for name, one in by_priority]

    def default_model(self) -> str:
        """The configured model; else one that is known to be there; else "", and the upstream's first is taken."""
        settings = self._settings
        if self.local is not None:
            return self.local.model
        if settings.uses_demo:
            return DEMO_MODEL
        asks_openai = not (settings.upstreams or settings.upstream.base_url)
        return settings.upstream.model or (OPENAI_MODEL if asks_openai else "")

    def _open_local(self) -> Member:
        local = self._settings.local
        self.local = LocalServer(
            self._tasks, model_file=local.model_file, context=local.context_tokens, threads=local.threads
        )
        self.local.start()
        self._ends.append(self.local.stop)
        given = self._settings.upstream
        upstream = replace(
            given,
            base_url=self.local.url,
            api_key=self.local.api_key,
            loading_timeout_s=max(_LOCAL_LOADING_S, given.loading_timeout_s),
            first_token_timeout_s=max(_LOCAL_FIRST_TOKEN_S, given.first_token_timeout_s),
            idle_timeout_s=max(_LOCAL_FIRST_TOKEN_S, given.idle_timeout_s),
        )
        return self._open_upstream("local", upstream, named=False)

    def _open_upstream(self, name: str, settings: UpstreamSettings, *, named: bool) -> Member:
        upstream = OpenAIUpstream(
            name=name,
            base_url=settings.base_url or OPENAI_URL,
            api_key=settings.api_key or "none",
            connect_timeout_s=settings.connect_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_connections=settings.max_connections,
            api="responses" if settings.api == "responses" else "chat",
        )
        self._ends.append(upstream.close)
        terms = Terms(
            priority=settings.priority,
            models=dict(
                (asked, there or asked) for asked, _, there in (item.partition("=") for item in settings.models)
            ),
            max_retries=settings.max_retries,
            first_token_timeout_s=settings.first_token_timeout_s,
            loading_timeout_s=settings.loading_timeout_s,
            max_tokens_field=settings.max_tokens_field,
            developer_role=settings.developer_role,
            breaker_failures=settings.breaker_failures,
            breaker_first_s=settings.breaker_first_s,
            breaker_longest_s=settings.breaker_longest_s,
            api=settings.api,
            named=named,
            base_url=settings.base_url or OPENAI_URL,
        )
        return Member(upstream, terms)
