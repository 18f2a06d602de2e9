"""Calls of Generate from Python, for the tests of this folder: stubs made from proto/ on import."""

import asyncio
import collections
import dataclasses
import pathlib
import subprocess
import sys
import tempfile

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / 'proto'
STUBS = tempfile.TemporaryDirectory()
subprocess.run(['protoc', f'-I{PROTO}', f'--python_out={STUBS.name}',
                f'--grpc_out={STUBS.name}', '--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin',
                'strata/v1/inference.proto'], check=True)
sys.path.insert(0, STUBS.name)
from strata.v1 import inference_pb2 as pb  # noqa: E402
from strata.v1 import inference_pb2_grpc  # noqa: E402


@dataclasses.dataclass
class Outcome:
    """What a call came to; two of the same request must be equal."""
    code: grpc.StatusCode = None
    finished: int = 0  # messages
    reasons: dict = dataclasses.field(default_factory=dict)  # by index
    tokens: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    texts: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(str))
    # The bits of each token's log-probability, of the likeliest and of the prompt's.
    logprobs: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    prompt_logprobs: bytes = b''
    metrics: dict = dataclasses.field(default_factory=dict, compare=False)  # by index


async def generate(client, request, cancel_after=None):
    """One call to its end; cancelled once more than `cancel_after` messages have come."""
    outcome, heard = Outcome(), 0
    call = client.Generate(request)
    try:
        async for event in call:
            take(event, outcome)
            heard += 1
            if cancel_after is not None and heard > cancel_after:
                call.cancel()
        outcome.code = grpc.StatusCode.OK
    except asyncio.CancelledError:
        outcome.code = grpc.StatusCode.CANCELLED
    except grpc.aio.AioRpcError as error:
        outcome.code = error.code()
    return outcome


def take(event, outcome):
    if event.HasField('delta'):
        outcome.tokens[event.index].extend(event.delta.token_ids)
        outcome.texts[event.index] += event.delta.text
        outcome.logprobs[event.index].extend(
            token.SerializeToString(deterministic=True) for token in event.delta.logprobs)
    elif event.HasField('prompt_logprobs'):
        outcome.prompt_logprobs = event.prompt_logprobs.SerializeToString(deterministic=True)
    elif event.HasField('finished'):
        outcome.finished += 1
        outcome.reasons[event.index] = event.finished.reason
        outcome.metrics[event.index] = event.finished.metrics


def stub(channel):
    return inference_pb2_grpc.InferenceStub(channel)
