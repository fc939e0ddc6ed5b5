SELECT r.request_id, r.status, r.error_message, res.content AS result
FROM requests r
LEFT JOIN results res ON r.result_id = res.result_id
WHERE r.request_id = $1
