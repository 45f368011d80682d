"""Requests that a machine makes up from the OpenAPI document: no failure of riboray's."""

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from riboray.model import RnaBertForPreTraining, save_checkpoint
from riboray.serving.http import build_api
from riboray.serving.inputs import Limits
from riboray.serving.service import Service
from tests.conftest import tiny_config
from tests.serving.helpers import TASKS, save_tasks


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    torch.manual_seed(6)
    folder = tmp_path_factory.mktemp("fuzz") / "tiny"
    save_checkpoint(RnaBertForPreTraining(tiny_config()), folder)
    tasks = save_tasks(folder.parent)
    service = Service(str(folder), Limits(length=500, nucleotides=2_000), tasks=tasks)
    return schemathesis.openapi.from_asgi("/openapi.json", build_api(service))


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/info"),
    ("POST", "/v1/embed"),
    ("POST", "/v1/fill-mask"),
    ("POST", "/v1/align"),
    ("POST", "/v1/map"),
    ("POST", "/v1/predict/{task}"),
    ("POST", "/v1/search"),
    ("POST", "/v1/tokenize"),
    ("POST", "/v1/embeddings"),
]


def test_all_operations_are_fuzzed(document):
    found = [result.ok() for result in document.get_all_operations()]
    assert sorted((o.method.upper(), o.path) for o in found) == sorted(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_the_service_fail(document, method, path):
    """No 5xx; statuses and bodies are those of the document.

    Which sequences are nucleotides, the document cannot say: what it allows may be refused.
    """

    @given(case=document[path][method].as_strategy(), task=st.sampled_from(sorted(TASKS)))
    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    def sent(case, task):
        if "{task}" in path and len(case.path_parameters["task"]) % 4:
            case.path_parameters["task"] = task  # else whatever was made up
        case.call_and_validate(checks=CHECKS)

    sent()
