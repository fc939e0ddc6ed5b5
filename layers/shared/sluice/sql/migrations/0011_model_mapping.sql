-- min_compatible_version: 1
-- Models get a mapping: how a server with a form of its own is asked, and how its answer is read.

ALTER TABLE models ADD COLUMN mapping jsonb;
-- No model that exists has a mapping or is SageMaker's, and the table is short: the scans find nothing, in no time.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_mapping_of_sagemaker CHECK (mapping IS NULL OR backend = 'sagemaker');
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_mapping_fits_kind CHECK (
    mapping->'response' IS NULL
    OR mapping->'response' ? CASE kind WHEN 'embedding' THEN 'vectors' ELSE 'text' END);
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_sagemaker_has_no_address CHECK (
    backend <> 'sagemaker' OR (endpoint IS NULL AND secret_arn IS NULL));
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_sagemaker_names_endpoint CHECK (
    backend <> 'sagemaker' OR (backend_model ~ '^[A-Za-z0-9](-*[A-Za-z0-9])*$' AND length(backend_model) <= 63));
COMMENT ON COLUMN models.mapping IS
    'Of the sagemaker backend: the target within the endpoint, the template of the request, the JMESPath expressions '
    'that read the answer; see sluice.backends.mapping. NULL: the server has OpenAI''s form.';
