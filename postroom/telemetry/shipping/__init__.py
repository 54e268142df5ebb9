"""Ships the log's lines to Datadog or Elasticsearch, without an agent, bounded in memory, in a thread of its own."""
