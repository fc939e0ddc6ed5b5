CREATE TABLE requests (
    request_id UUID PRIMARY KEY,
    user_id VARCHAR(50) NOT NULL,
    prompt TEXT NOT NULL,
    model_id VARCHAR(50) NOT NULL,
    status VARCHAR(20) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    processing_time_ms INTEGER,
    result_id UUID,
    error_message TEXT
);
CREATE INDEX idx_requests_user_id ON requests(user_id);
CREATE INDEX idx_requests_status ON requests(status);
CREATE INDEX idx_requests_created_at ON requests(created_at);
CREATE TABLE results (
    result_id UUID PRIMARY KEY,
    content TEXT NOT NULL,
    token_count INTEGER,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);
CREATE TABLE binary_results (
    result_id UUID PRIMARY KEY,
    content BYTEA NOT NULL,
    mime_type VARCHAR(100) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);
CREATE TABLE users (
    user_id VARCHAR(50) PRIMARY KEY,
    api_key VARCHAR(64) UNIQUE NOT NULL,
    email VARCHAR(255) UNIQUE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    is_active BOOLEAN DEFAULT TRUE
);
CREATE TABLE quotas (
    user_id VARCHAR(50) REFERENCES users(user_id),
    quota_period VARCHAR(20) NOT NULL,
    max_requests INTEGER NOT NULL,
    requests_used INTEGER DEFAULT 0,
    reset_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (user_id, quota_period)
);
CREATE INDEX idx_api_keys ON users(api_key);
