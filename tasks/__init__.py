"""One call into `pacs_core` each, with its retry, timeout and task-runner policy. Flows compose them."""
