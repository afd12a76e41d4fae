"""The doctor: looks at servers, settings and producers, writes nothing, and says what is wrong and what to do."""
