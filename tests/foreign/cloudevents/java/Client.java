// The CloudEvents SDK for Java with HttpURLConnection, as its documents show, and with java.net.http:
// each mode in and out of a queue.
//
//     java -cp 'jars/*' Client.java http://127.0.0.1:8080/queues/events

import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.MessageReader;
import io.cloudevents.core.message.MessageWriter;
import io.cloudevents.http.HttpMessageFactory;
import io.cloudevents.jackson.JsonFormat;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;

public class Client {
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    public static void main(String[] args) throws Exception {
        String queue = args[0];
        Map<String, byte[]> kinds = new LinkedHashMap<>();
        kinds.put("application/json", "{\"user\":\"ada\",\"n\":1.5}".getBytes(StandardCharsets.UTF_8));
        kinds.put("text/plain", "line one\nline two".getBytes(StandardCharsets.UTF_8));
        kinds.put("application/octet-stream", new byte[] {0, (byte) 255, 10});
        for (Map.Entry<String, byte[]> kind : kinds.entrySet()) {
            for (String sender : new String[] {"binary", "structured", "binary-http", "structured-http"}) {
                for (String receiver : new String[] {"structured", "binary"}) {
                    CloudEvent sent = CloudEventBuilder.v1()
                        .withId(UUID.randomUUID().toString())
                        .withSource(URI.create("/web"))
                        .withType("org.example.signup")
                        // This SDK does not percent-encode headers, nor decode them.
                        .withSubject((sender + receiver).contains("binary") ? "ada" : "Zo\u00eb")
                        .withExtension("ourlevel", "gold")
                        .withData(kind.getKey(), kind.getValue())
                        .build();
                    if (sender.endsWith("-http")) {
                        sendByHttpClient(queue, sender.startsWith("structured"), sent);
                    } else {
                        sendByConnection(queue, sender.equals("structured"), sent);
                    }
                    compare(sent, receive(queue, receiver));
                    System.out.println(sender + " " + receiver + " " + kind.getKey());
                }
            }
        }
    }

    private static void sendByConnection(String queue, boolean structured, CloudEvent event) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) new URL(queue + "/jobs").openConnection();
        connection.setRequestMethod("POST");
        connection.setDoOutput(true);
        MessageWriter<?, ?> writer = HttpMessageFactory.createWriter(
            connection::setRequestProperty,
            body -> {
                try (OutputStream stream = connection.getOutputStream()) {
                    stream.write(body);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            });
        write(writer, structured, event);
        expect(201, connection.getResponseCode());
    }

    private static void sendByHttpClient(String queue, boolean structured, CloudEvent event) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(queue + "/jobs"));
        write(
            HttpMessageFactory.createWriter(
                request::header, body -> request.POST(HttpRequest.BodyPublishers.ofByteArray(body))),
            structured,
            event);
        expect(201, HTTP.send(request.build(), HttpResponse.BodyHandlers.discarding()).statusCode());
    }

    private static void write(MessageWriter<?, ?> writer, boolean structured, CloudEvent event) {
        if (structured) {
            writer.writeStructured(event, JsonFormat.CONTENT_TYPE);
        } else {
            writer.writeBinary(event);
        }
    }

    private static CloudEvent receive(String queue, String mode) throws Exception {
        boolean structured = mode.equals("structured");
        HttpRequest.Builder request =
            HttpRequest.newBuilder(URI.create(queue + "/next?timeout=5" + (structured ? "" : "&format=raw")));
        if (structured) {
            request.header("Accept", JsonFormat.CONTENT_TYPE);
        }
        HttpResponse<byte[]> answer = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
        expect(200, answer.statusCode());
        MessageReader reader = HttpMessageFactory.createReaderFromMultimap(answer.headers().map(), answer.body());
        CloudEvent event = reader.toEvent();
        URI lease = URI.create(queue).resolve(answer.headers().firstValue("Location").get() + "/ack");
        HttpRequest ack = HttpRequest.newBuilder(lease).POST(HttpRequest.BodyPublishers.noBody()).build();
        expect(204, HTTP.send(ack, HttpResponse.BodyHandlers.discarding()).statusCode());
        return event;
    }

    private static void compare(CloudEvent sent, CloudEvent got) {
        boolean same = sent.getId().equals(got.getId())
            && sent.getSource().equals(got.getSource())
            && sent.getType().equals(got.getType())
            && sent.getSubject().equals(got.getSubject())
            && sent.getDataContentType().equals(got.getDataContentType())
            && "gold".equals(got.getExtension("ourlevel"))
            && Arrays.equals(sent.getData().toBytes(), got.getData().toBytes());
        if (!same) {
            throw new AssertionError("sent " + sent + "\ngot " + got);
        }
    }

    private static void expect(int expected, int status) {
        if (status != expected) {
            throw new AssertionError("status " + status + ", not " + expected);
        }
    }
}
