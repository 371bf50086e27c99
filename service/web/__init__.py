"""What the HTTP slices share: authentication, problem documents, schemas, metrics."""
