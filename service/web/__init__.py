"""HTTP code that the slices share: authentication, problem documents, schemas, metrics."""
