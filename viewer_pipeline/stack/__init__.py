"""Everything on one machine: processes, embedded servers, ports."""
