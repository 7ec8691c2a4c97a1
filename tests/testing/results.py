"""Results of the conformance kit."""


def failed(results):
    """Names of the checks that failed."""
    return [r.check for r in results if r.status == "failed"]
