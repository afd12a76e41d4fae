"""Programs for developers: what the tests prove, pages made from the code, other servers, packages."""
