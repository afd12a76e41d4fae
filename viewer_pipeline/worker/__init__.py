"""The long-lived side: listens to the producers all the time."""
