"""HL7 v2: orders from an information system become worklist items. The owner of the hl7 library."""
