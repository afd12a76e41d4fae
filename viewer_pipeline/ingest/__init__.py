"""From messages to counters: subscribe, cut, fold."""
