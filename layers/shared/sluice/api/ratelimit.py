"""Rate-limit headers."""

from collections.abc import Sequence

from sluice.domain.requests import QuotaCounter


def rate_limit_headers(quotas: Sequence[QuotaCounter]) -> dict[str, str]:
    """x-ratelimit-* headers, in OpenAI's names, for the period nearest its limit; none where nothing is limited."""
    headers: dict[str, str] = {}
    requests = [(q.max_requests, q.requests_used, q.reset_seconds) for q in quotas if q.max_requests]
    tokens = [(q.max_tokens, q.tokens_used, q.reset_seconds) for q in quotas if q.max_tokens]
    for kind, limited in (("requests", requests), ("tokens", tokens)):
        if limited:
            limit, used, reset_seconds = max(limited, key=lambda counter: (counter[1] / counter[0], counter[2]))
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - used))
            headers[f"x-ratelimit-reset-{kind}"] = str(int(reset_seconds))
    return headers
