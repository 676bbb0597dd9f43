def test_acknowledged_data_survives_a_killed_mongod(tmp_path):
    from pymongo import MongoClient

    from real_mongod import RealMongod

    server = RealMongod(tmp_path)
    server.start()
    server.initiate()
    with MongoClient(server.uri, w="majority") as client:
        client.test.documents.insert_one({"_id": 1})
    server.kill()
    server.start()
    server.wait_for_primary()
    with MongoClient(server.uri) as client:
        assert client.test.documents.count_documents({"_id": 1}) == 1
    server.stop()
