CREATE TABLE requests (
    request_id UUID NOT NULL,
    user_id VARCHAR(50) NOT NULL,
    prompt TEXT NOT NULL,
    status VARCHAR(20) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    PRIMARY KEY (created_at, request_id)
) PARTITION BY RANGE (created_at);
CREATE TABLE requests_y2023m01 PARTITION OF requests FOR VALUES FROM ('2023-01-01') TO ('2023-02-01');
CREATE TABLE requests_y2023m02 PARTITION OF requests FOR VALUES FROM ('2023-02-01') TO ('2023-03-01');
