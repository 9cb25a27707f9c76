"""Projects, their tasks, and tags: routes ask services, services ask repositories."""
