"""Which functions there are is read from the template's outputs; nothing else lists them."""

from local.deploy import Deployment, functions


def test_functions_are_the_outputs_that_name_one() -> None:
    outputs = {"ApiUrl": "https://api", "SubmitFunctionName": "sluice-submit", "WorkerFunctionName": "sluice-worker"}
    deployment = Deployment(outputs=outputs, resources={}, template={})
    assert functions(deployment) == {"submit": "sluice-submit", "worker": "sluice-worker"}
