"""Checks of one model server: the way there, its key, its models, and what it says in a stream."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from grizz.doctor.asking import Patient, Said, ask, body_of, count_of, delta_of, proxy_of, text_of, why
from grizz.doctor.findings import Finding, State
from grizz.doctor.machine import until

_MODELS_S = 10.0
_SKEW_S = 60.0
_WORDS = "Say OK."
_ENOUGH_FOR_A_CALL = 64
_ENOUGH_TOKENS = 16  # the least that OpenAI's Responses API takes


async def examine(patient: Patient) -> AsyncIterator[Finding]:
    """All checks, in order; those that need what failed are left out."""
    for step in (_way, _tls):
        async for finding in step(patient):
            yield finding
        if patient.is_over:
            return
    async with _session(patient) as http:
        for look in (_models, _chat, _tools, _responses, _kept):
            async for finding in look(patient, http):
                yield finding
            if patient.is_over:
                break
    if patient.tokens:
        yield patient.found("cost", "ok", f"these questions cost about {patient.tokens} tokens")


async def _way(patient: Patient) -> AsyncIterator[Finding]:
    url = urlsplit(patient.base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        patient.is_over = True
        yield patient.found(
            "name", "bad", f"{host} has no address: {error.strerror}", f"check {patient.table} base_url"
        )
        return
    shown = list(dict.fromkeys(str(address[4][0]) for address in addresses))
    yield patient.found("name", "ok", f"{host} is {', '.join(shown[:4])}")
    began = loop.time()
    try:
        async with asyncio.timeout(patient.settings.connect_timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        patient.is_over = True
        advice = f"start the model server, or check the port in {patient.table} base_url"
        yield patient.found("connection", "bad", f"nobody listens on {host} port {port}", advice)
        return
    except (OSError, TimeoutError) as error:
        patient.is_over = True
        text = f"{host} port {port} cannot be reached: {str(error) or 'no answer'}"
        yield patient.found("connection", "bad", text, "check the network and the firewall between the two")
        return
    writer.close()
    yield patient.found("connection", "ok", f"made in {(loop.time() - began) * 1000:.0f} ms")


async def _tls(patient: Patient) -> AsyncIterator[Finding]:
    url = urlsplit(patient.base_url)
    if url.scheme != "https":
        if url.hostname not in ("localhost", "127.0.0.1", "::1") and patient.settings.api_key:
            yield patient.found("TLS", "note", "the key and every word go over the network in the clear", "use https")
        return
    try:
        async with asyncio.timeout(patient.settings.connect_timeout_s):
            context = ssl.create_default_context()
            _, writer = await asyncio.open_connection(url.hostname, url.port or 443, ssl=context)
    except (OSError, TimeoutError) as error:
        patient.is_over = True
        text = f"no: {getattr(error, 'verify_message', '') or error or 'no answer'}"
        advice = "a certificate of your own must be known to this machine (SSL_CERT_FILE)"
        if "WRONG_VERSION_NUMBER" in text:
            advice = f"it speaks http there, not https: let {patient.table} base_url begin with http://"
        yield patient.found("TLS", "bad", text, advice)
        return
    secured = writer.get_extra_info("ssl_object")
    expires = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
    patient.facts["tls"] = secured.version()
    writer.close()
    about = until(f"{patient.label}: TLS", expires)
    yield Finding(about.about, about.state, f"{secured.version()}, {about.text}", about.advice)


def _session(patient: Patient) -> aiohttp.ClientSession:
    async def reused(*_: Any) -> None:
        patient.reused += 1

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {patient.settings.api_key or 'none'}"},
        connector=aiohttp.TCPConnector(limit=1),
        timeout=aiohttp.ClientTimeout(
            sock_connect=patient.settings.connect_timeout_s, sock_read=patient.settings.idle_timeout_s
        ),
        trace_configs=[trace],
        proxy=proxy_of(patient.base_url),
    )


async def _models(patient: Patient, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    try:
        async with asyncio.timeout(_MODELS_S), http.get(f"{patient.base_url}/models") as response:
            body = (await body_of(response)).decode(errors="replace")
            status, headers = response.status, response.headers
    except (aiohttp.ClientError, TimeoutError) as error:
        yield patient.found("models", "bad", f"not listed: {why(error)}", "see the log of the model server")
        return
    yield _clocks(patient, headers.get("Date"))
    ids = _ids(body)
    if status in (401, 403):
        patient.is_over = True
        yield patient.found("key", "bad", f"refused ({status})", f"set {patient.key_name} to a key of this API")
    elif status == 503:
        patient.is_over = True
        advice = f"wait; Grizz lets jobs wait for {patient.settings.loading_timeout_s:g} s (loading_timeout_s)"
        yield patient.found("models", "bad", f"it is not ready yet: {text_of(body)}", advice)
    elif status == 404 and not urlsplit(patient.base_url).path.rstrip("/").endswith("/v1"):
        yield patient.found("models", "bad", "not found (404)", f"base_url should probably be {patient.base_url}/v1")
    elif ids is None:
        text = f"not listed ({status}); that alone does no harm"
        yield patient.found("models", "note", text, "" if patient.model else "set upstream.model (OPENAI_MODEL)")
    else:
        for finding in _chosen(patient, ids):
            yield finding


def _ids(body: str) -> list[str] | None:
    try:
        return [str(model["id"]) for model in orjson.loads(body)["data"]]
    except (ValueError, TypeError, KeyError):
        return None


def _chosen(patient: Patient, ids: list[str]) -> list[Finding]:
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    if not ids:
        return [patient.found("models", "bad", "it has none", "load one into the model server")]
    if not patient.model:
        patient.model = ids[0]
        advice = "set upstream.model (OPENAI_MODEL) if another one shall" if len(ids) > 1 else ""
        return [patient.found("models", "ok", f"{shown}; {ids[0]} answers when a request names none", advice)]
    if patient.model in ids or any(name.startswith(f"{patient.model}:") for name in ids):
        return [patient.found("models", "ok", f"{patient.model} is one of {len(ids)}")]
    return [patient.found("models", "note", f"{patient.model} is not among {shown}", "check the name of the model")]


def _clocks(patient: Patient, date: str | None) -> Finding:
    try:
        off_s = time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return patient.found("clock", "ok", "it does not say the time")
    if abs(off_s) > _SKEW_S:
        return patient.found("clock", "note", f"the two clocks are {abs(off_s):.0f} s apart", "let both follow NTP")
    return patient.found("clock", "ok", "the same as here")


async def _chat(patient: Patient, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    body: dict[str, Any] = {"model": patient.model, "messages": [{"role": "user", "content": _WORDS}], "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    field_name = patient.settings.max_tokens_field
    said = await ask(patient, http, "chat/completions", body | {field_name: _ENOUGH_TOKENS})
    other = "max_tokens" if field_name == "max_completion_tokens" else "max_completion_tokens"
    if said.status == 400 and other in said.error:
        said = await ask(patient, http, "chat/completions", body | {other: _ENOUGH_TOKENS})
        if said.status == 200:
            line = f'{patient.table} max_tokens_field = "{other}"'
            yield patient.found("chat", "bad", f"it does not know {field_name}", f"set {line}")
        field_name = other
    patient.facts["limit"] = field_name
    if said.error or not said.events:
        patient.facts["chat"] = "no"
        needed = patient.api == "chat" or said.status != 404
        yield _no_chat(patient, said) if needed else patient.found("chat", "ok", "not spoken, and not needed")
        return
    usage = next((event["usage"] for event in said.events if isinstance(event.get("usage"), dict)), None)
    first = "no word of content" if said.first_s is None else f"the first word after {said.first_s:.2f} s"
    yield patient.found("chat", "ok", f"{patient.model} streams, {first}")
    patient.facts["chat"] = "yes"
    if usage is None:
        text = "not reported in the stream, so that no tokens are counted"
        yield patient.found("usage", "note", text, "limits by tokens cannot hold with this server")
    else:
        patient.tokens += count_of(usage)
        yield patient.found("usage", "ok", "reported in the stream")


async def _tools(patient: Patient, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    """Some servers refuse every request with a function in it unless they were started for that."""
    if patient.facts["chat"] == "no":
        return
    messages = [{"role": "user", "content": "Call the function now."}]
    function = {"name": "now", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}
    body: dict[str, Any] = {"model": patient.model, "messages": messages, "stream": True}
    body |= {"stream_options": {"include_usage": True}, patient.facts["limit"]: _ENOUGH_FOR_A_CALL}
    said = await ask(patient, http, "chat/completions", body | {"tools": [{"type": "function", "function": function}]})
    usages = (event["usage"] for event in said.events if isinstance(event.get("usage"), dict))
    patient.tokens += sum(map(count_of, usages))
    if said.error or not said.events:
        advice = "requests with tools will fail; vLLM needs --enable-auto-tool-choice and a parser, llama.cpp --jinja"
        yield patient.found("tools", "note", f"functions are refused ({said.status}): {said.error}", advice)
    elif any(_calls(event) for event in said.events):
        yield patient.found("tools", "ok", "it calls functions")
    else:
        yield patient.found("tools", "ok", "functions are taken, though it called none when asked to")


def _calls(event: dict[str, Any]) -> bool:
    return bool(delta_of(event).get("tool_calls"))


def _no_chat(patient: Patient, said: Said) -> Finding:
    advice = {
        401: f"set {patient.key_name} to a key of this API",
        403: f"set {patient.key_name} to a key that may use {patient.model}",
        404: "check base_url, which mostly ends in /v1, and the name of the model",
        429: "wait, or raise the limit of this account",
        503: "wait until the model is loaded",
    }.get(said.status, "see the log of the model server")
    if said.status == 200:
        text = f"no stream of events came, but {said.kind or 'nothing'}"
        return patient.found("chat", "bad", text, "it must know stream = true of Chat Completions")
    return patient.found("chat", "bad", f"refused ({said.status}): {said.error}", advice)


async def _responses(patient: Patient, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    state: State
    body = {"model": patient.model, "input": _WORDS, "stream": True, "max_output_tokens": _ENOUGH_TOKENS}
    said = await ask(patient, http, "responses", body | {"store": False})
    patient.tokens += sum(_responses_tokens(event) for event in said.events)
    lacking = _lacking(said.events)
    if not said.status:
        yield patient.found("responses", "note", f"could not be asked: {said.error}", "run this again")
    elif lacking and len(said.events) > 1:
        state = "note" if patient.api == "responses" else "ok"
        text = f"it speaks the Responses API in part: its events lack {', '.join(lacking)}"
        yield patient.found("responses", state, text, f'leave {patient.table} api = "chat"')
    elif lacking:
        state = "bad" if patient.api == "responses" else "ok"
        line = f'set {patient.table} api = "chat"' if state == "bad" else ""
        yield patient.found("responses", state, "it does not speak the Responses API itself", line)
    elif patient.api == "responses":
        yield patient.found("responses", "ok", 'spoken, and passed through (api = "responses")')
    elif patient.facts.get("chat") == "no":
        line = f'set {patient.table} api = "responses"'
        yield patient.found("responses", "bad", "it speaks the Responses API, and no Chat Completions", line)
    else:
        line = f'{patient.table} api = "responses" passes its events through, hosted tools and all'
        yield patient.found("responses", "ok", "it speaks the Responses API itself", line)


def _lacking(events: tuple[dict[str, Any], ...]) -> list[str]:
    """What the events of a Responses stream must have, and these have not."""
    by_type: dict[object, dict[str, Any]] = {}
    for event in events:
        by_type.setdefault(event.get("type"), event)
    wanted = {
        "response.created": ("sequence_number", "response"),
        "response.output_item.added": ("sequence_number", "output_index", "item"),
    }
    if "response.completed" not in by_type and "response.incomplete" not in by_type:
        wanted |= {"response.completed": ("response",)}
    return list(
        dict.fromkeys(
            name if kind in by_type else str(kind)
            for kind, names in wanted.items()
            for name in names
            if name not in by_type.get(kind, {})
        )
    )


def _responses_tokens(event: dict[str, Any]) -> int:
    response = event.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    return count_of(usage)


async def _kept(patient: Patient, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    if patient.reused:
        yield patient.found("keep-alive", "ok", "connections are kept open" + patient.facts.get("keep-alive", ""))
    else:
        text = "each request needs a new connection, which costs a round trip or three"
        yield patient.found("keep-alive", "note", text, "let the server, or the proxy before it, keep them open")
