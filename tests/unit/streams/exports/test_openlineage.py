"""Run events of OpenLineage: valid, with offsets in and the version out, and nothing that stays with the tenant."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from streams.errors import ExportError
from streams.exports import openlineage
from tests.fakes.exports import exported_version

FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL"],
    "properties": {
        "_producer": {"type": "string", "pattern": "^(urn:|https?:)"},
        "_schemaURL": {"type": "string", "pattern": "^https://openlineage[.]io/spec/"},
    },
}
FACETS = {"type": "object", "additionalProperties": FACET}
DATASET = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "facets": FACETS,
        "inputFacets": FACETS,
        "outputFacets": FACETS,
    },
    "additionalProperties": False,
}
# What OpenLineage's specification 2-0-2 demands of a run event, said anew: its client does not ship the document.
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "pattern": "^(urn:|https?:)"},
        "schemaURL": {"const": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
        },
        "job": {
            "type": "object",
            "required": ["namespace", "name"],
            "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
        },
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
    "additionalProperties": False,
}
VALID = Draft202012Validator(RUN_EVENT, format_checker=FormatChecker())


def documents(**changes):
    return [json.loads(line) for line in openlineage.lines(exported_version(**changes), brokers="kafka:9092")]


@pytest.mark.parametrize(
    "changes", [{}, {"round_id": None, "scheduled_for": None, "inputs": [], "rollout": None}]
)
def test_a_run_starts_and_completes_as_the_specification_demands(changes):
    start, complete = documents(**changes)
    for document in (start, complete):
        VALID.validate(document)
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["eventTime"] == "2026-11-29T12:00:00+00:00"


def test_offsets_go_in_and_the_version_comes_out_with_receipt_gate_and_rollout():
    _, complete = documents()
    found = {
        (one["namespace"], one["name"]): one["inputFacets"]["discreet_offsets"]["partitions"]
        for one in complete["inputs"]
    }
    assert found == {
        ("kafka://kafka:9092", "discreet.consent.v1"): [{"partition": 0, "next_offset": 5}],
        ("kafka://kafka:9092", "discreet.interactions.v1"): [
            {"partition": 0, "next_offset": 41},
            {"partition": 1, "next_offset": 7},
        ],
    }
    (output,) = complete["outputs"]
    facets = output["facets"]
    assert facets["version"]["datasetVersion"] == exported_version().version_id
    assert facets["discreet_receipt"]["privacy"]["release_epsilon"] == 0.5
    assert facets["discreet_receipt"]["signed_receipt"] is True
    assert facets["discreet_gate"]["checks"][0]["name"] == "public_text"
    assert facets["discreet_rollout"]["rollout"]["stage"] == "canary"
    assert facets["lifecycleStateChange"]["lifecycleStateChange"] == "CREATE"
    _, withdrawn = documents(state="withdrawn")
    assert withdrawn["outputs"][0]["facets"]["lifecycleStateChange"]["lifecycleStateChange"] == "DROP"


def test_events_are_sent_over_http_with_the_key_and_a_refusal_is_one_sentence():
    got = []

    class Server(BaseHTTPRequestHandler):
        status = 201

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers.get("Authorization"), json.loads(body)["eventType"]))
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        openlineage.send(exported_version(), url, brokers="kafka:9092", api_key="key")
        assert got == [
            ("/api/v1/lineage", "Bearer key", "START"),
            ("/api/v1/lineage", "Bearer key", "COMPLETE"),
        ]
        Server.status = 400
        with pytest.raises(ExportError, match="did not take the events"):
            openlineage.send(exported_version(), url, brokers="kafka:9092")
        server.shutdown()
        thread.join()
