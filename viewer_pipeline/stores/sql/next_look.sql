-- Up to which id the last look at parked views came.
SELECT after FROM viewer.parked_look
