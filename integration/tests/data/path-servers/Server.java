// Tomcat with a servlet at /admin/* that answers REACHED, as all do where the host is admin.shop; and with encoded slashes and
// backslashes decoded, as it may be set up.
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

public class Server {
    public static void main(String[] args) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(args[1]);
        Connector connector = new Connector();
        connector.setPort(Integer.parseInt(args[0]));
        connector.setProperty("address", "127.0.0.1");
        connector.setProperty("relaxedPathChars", "\\|\"<>[]^`{}");
        connector.setEncodedSolidusHandling("decode");
        connector.setEncodedReverseSolidusHandling("decode");
        connector.setAllowBackslash(true);
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", args[1]);
        Tomcat.addServlet(context, "admin", answering("REACHED"));
        Tomcat.addServlet(context, "other", answering("other"));
        context.addServletMappingDecoded("/admin/*", "admin");
        context.addServletMappingDecoded("/", "other");
        tomcat.start();
        tomcat.getServer().await();
    }

    private static HttpServlet answering(String text) {
        return new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
                String host = request.getServerName().toLowerCase().replaceAll("[.]+$", "");
                response.getWriter().print(host.equals("admin.shop") ? "REACHED" : text);
            }
        };
    }
}
